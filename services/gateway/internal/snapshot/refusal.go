package snapshot

import "fmt"

// Reason is why a file is not used.
type Reason string

// The reasons.
const (
	// Missing: there is none.
	Missing Reason = "missing"
	// Unreadable: the system does not let it be read.
	Unreadable Reason = "unreadable"
	// CutShort: its end is not there.
	CutShort Reason = "cut short"
	// OtherVersion: it is no file of this version of the program, or none of Tenantry's at all.
	OtherVersion Reason = "other version"
	// Altered: it is not what was written, or was written with another master key.
	Altered Reason = "altered"
	// Malformed: it is whole and means nothing.
	Malformed Reason = "malformed"
	// Future: it is from the future.
	Future Reason = "from the future"
	// TooOld: its routes were fresh too long ago.
	TooOld Reason = "too old"
	// OtherInstance: it is another copy's.
	OtherInstance Reason = "another instance's"
)

// Refusal says why a file is not used.
type Refusal struct {
	// Reason is why.
	Reason Reason
	// Detail is what was got, and what is wanted.
	Detail string
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("snapshot: %s: %s", r.Reason, r.Detail) }

func refuse(reason Reason, format string, args ...any) error {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

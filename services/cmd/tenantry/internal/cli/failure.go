package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	codepb "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tenantry/tenantry/services/internal/fault"
)

// failure is an error as it is printed.
type failure struct {
	Code     string            `json:"code,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Message  string            `json:"message"`
	Fields   []failedField     `json:"fields,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Retry    string            `json:"retry_after,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	ExitCode int               `json:"exit_code"`
}

type failedField struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// fail prints an error, if there is one, to standard error, and returns the exit code.
func (a *app) fail(err error) int {
	code := exitCode(err)
	if err == nil {
		return code
	}
	f := describe(err)
	f.ExitCode = code
	if a.asked {
		line, err := jsonLine(map[string]failure{"error": f})
		if err == nil {
			a.notef("%s", line)
			return code
		}
	}
	a.notef("%s", f)
	return code
}

func describe(err error) failure {
	var usage *usageError
	if errors.As(err, &usage) {
		return failure{Message: usage.text, Hint: usage.hint}
	}
	f := fault.From(err)
	// What a server said is for people; what this program itself ran into is told in full, as there is no log to look in.
	if f.Code == codes.Internal && f.Reason == fault.Internal && !fromServer(err) {
		return failure{Message: err.Error()}
	}
	out := failure{
		Code:     codeName(f.Code),
		Reason:   f.Reason,
		Message:  f.Text,
		Metadata: f.Metadata,
		Hint:     hints()[f.Reason],
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		out.Hint = hinted.hint
	}
	for _, field := range f.Fields {
		out.Fields = append(out.Fields, failedField{Field: field.Path, Description: field.Description})
	}
	if f.RetryAfter > 0 {
		out.Retry = f.RetryAfter.String()
	}
	return out
}

// String is the error for people: what, where, and what to do next.
func (f failure) String() string {
	var b strings.Builder
	b.WriteString("tenantry: ")
	if f.Reason != "" {
		b.WriteString(f.Reason + ": ")
	}
	b.WriteString(f.Message)
	for _, field := range f.Fields {
		if !strings.Contains(f.Message, field.Description) {
			fmt.Fprintf(&b, "\n  %s: %s", field.Field, field.Description)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Metadata)) {
		// A wrong field was named above, and a statement may have many lines.
		if value := f.Metadata[name]; name != "field" && value != "" {
			fmt.Fprintf(&b, "\n  %s: %s", name, strings.ReplaceAll(value, "\n", "\n    "))
		}
	}
	if f.Retry != "" {
		fmt.Fprintf(&b, "\n  Try again in %s.", f.Retry)
	}
	if f.Hint != "" {
		b.WriteString("\n  " + f.Hint)
	}
	return b.String()
}

// hints are what to do next, by reason.
func hints() map[string]string {
	return map[string]string{
		fault.Unavailable:              "Is it running? `tenantry status` asks every service; TENANTRY_GATEWAY, TENANTRY_REGISTRY, TENANTRY_PROVISIONER and TENANTRY_CA say where they are.",
		fault.CompanyNotFound:          "`tenantry company list` shows the companies.",
		fault.CompanySuspended:         "`tenantry company resume COMPANY` opens it again.",
		fault.CompanyNotActive:         "`tenantry company show COMPANY` tells why.",
		fault.CompanyStateInvalid:      "`tenantry company show COMPANY` tells where it stands.",
		fault.SlugTaken:                "Choose another with --slug, or leave it out to get one made from the name.",
		fault.EmailTaken:               "An e-mail logs in to one company only: choose another with --owner-email.",
		fault.RequestIDReused:          "Leave --request-id out to sign up anew; give it only to repeat the very same signup.",
		fault.SignupInProgress:         "The work goes on: repeat the command with the same --request-id.",
		fault.ClusterNotFound:          "`tenantry cluster list` shows the clusters.",
		fault.NoClusterAvailable:       "`tenantry cluster register` adds a PostgreSQL server; `tenantry cluster undrain NAME` lets tenants onto one that was drained.",
		fault.CredentialsMissing:       "`tenantry login EMAIL` opens a session; operators set TENANTRY_OPERATOR_CERT and TENANTRY_OPERATOR_KEY.",
		fault.CredentialsInvalid:       "`tenantry login EMAIL` opens a new session.",
		fault.RefreshTokenInvalid:      "`tenantry login EMAIL` opens a new session.",
		fault.RefreshTokenReused:       "Someone used this session's token before, so the session was ended. `tenantry login EMAIL` opens a new one.",
		fault.TokenExpired:             "`tenantry login EMAIL` opens a new session.",
		fault.MethodNotAllowed:         "Call as an operator: TENANTRY_OPERATOR_CERT and TENANTRY_OPERATOR_KEY name a certificate of one.",
		fault.TenantMismatch:           "The session is another company's: leave the company out (`tenantry sql @ …`), or log in to the one you mean.",
		fault.ChecksumMismatch:         "A migration file is not what atlas.sum says. Restore it; or, if it was never released, run `tenantry migration hash SET`.",
		fault.MigrationFailed:          "The tenant stays at the last whole file. Mend the file or the tenant's data, then run the command again.",
		fault.LockTimeout:              "Something holds the tenant's tables. Run the command again when it is done.",
		fault.RolloutRunning:           "One rollout at a time: run the command again when that one has ended (`tenantry status` shows it).",
		fault.VersionNotFound:          "`tenantry status COMPANY` shows the versions it can go to.",
		fault.PluginNotFound:           "`grpcurl … tenantry.registry.v1.PluginService/ListPlugins` shows the plugins.",
		fault.UsageTypeNotFound:        "`grpcurl … tenantry.registry.v1.PluginService/ListUsageTypes` shows the usage types.",
		fault.PluginUnsuitable:         "Choose another --usage-type or leave the plugin out.",
		fault.PluginRequirementMissing: "Add what it needs with one more --plugin.",
	}
}

// fromServer tells whether an error came over gRPC.
func fromServer(err error) bool {
	_, ok := status.FromError(err)
	return ok
}

// codeName is a gRPC code in the spelling of the specification, such as NOT_FOUND.
func codeName(code codes.Code) string {
	return codepb.Code(code).String()
}

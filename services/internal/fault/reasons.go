package fault

import "google.golang.org/grpc/codes"

// Reasons that any service may give. The contract says beside each rpc which of them it gives; programs decide by them,
// so none is ever renamed.
const (
	FieldInvalid     = "FIELD_INVALID"
	PageTokenInvalid = "PAGE_TOKEN_INVALID"

	CredentialsMissing = "CREDENTIALS_MISSING"
	CredentialsInvalid = "CREDENTIALS_INVALID"
	TokenExpired       = "TOKEN_EXPIRED"
	MethodNotAllowed   = "METHOD_NOT_ALLOWED"
	RoleMissing        = "ROLE_MISSING"
	TenantMismatch     = "TENANT_MISMATCH"

	NotImplemented      = "NOT_IMPLEMENTED"
	UpstreamUnknown     = "UPSTREAM_UNKNOWN"
	UpstreamUnavailable = "UPSTREAM_UNAVAILABLE"
	UpstreamBusy        = "UPSTREAM_BUSY"
	MessageTooLarge     = "MESSAGE_TOO_LARGE"
	MetadataTooLarge    = "METADATA_TOO_LARGE"
	DeadlineExceeded    = "DEADLINE_EXCEEDED"
	Cancelled           = "CANCELLED"
	Internal            = "INTERNAL"
	Unavailable         = "UNAVAILABLE"
	TooBusy             = "TOO_BUSY"
	RateLimited         = "RATE_LIMITED"
	Overloaded          = "OVERLOADED"
)

// Reasons about companies and their databases.
const (
	CompanyNotFound     = "COMPANY_NOT_FOUND"
	CompanyNotActive    = "COMPANY_NOT_ACTIVE"
	CompanyNotReady     = "COMPANY_NOT_READY"
	CompanySuspended    = "COMPANY_SUSPENDED"
	CompanyStateInvalid = "COMPANY_STATE_INVALID"
	ReservationNotFound = "RESERVATION_NOT_FOUND"
	RequestIDReused     = "REQUEST_ID_REUSED"
	SlugTaken           = "SLUG_TAKEN"
	EmailTaken          = "EMAIL_TAKEN"
	UsageTypeNotFound   = "USAGE_TYPE_NOT_FOUND"
	SignupInProgress    = "SIGNUP_IN_PROGRESS"

	ClusterNotFound    = "CLUSTER_NOT_FOUND"
	ClusterNotEmpty    = "CLUSTER_NOT_EMPTY"
	NoClusterAvailable = "NO_CLUSTER_AVAILABLE"

	MaintenanceHeld   = "MAINTENANCE_HELD"
	TenantMaintenance = "TENANT_MAINTENANCE"
	TooManyHeld       = "TOO_MANY_HELD"

	PluginNotFound           = "PLUGIN_NOT_FOUND"
	PluginRequirementMissing = "PLUGIN_REQUIREMENT_MISSING"
	PluginUnsuitable         = "PLUGIN_UNSUITABLE"
)

// Reasons about people and their credentials.
const (
	UserNotFound        = "USER_NOT_FOUND"
	LastOwner           = "LAST_OWNER"
	APIKeyNotFound      = "API_KEY_NOT_FOUND"
	RefreshTokenInvalid = "REFRESH_TOKEN_INVALID"
	RefreshTokenReused  = "REFRESH_TOKEN_REUSED"
)

// Reasons about migrations.
const (
	ChecksumMismatch = "CHECKSUM_MISMATCH"
	HistoryNotLinear = "HISTORY_NOT_LINEAR"
	VersionNotFound  = "VERSION_NOT_FOUND"
	MigrationFailed  = "MIGRATION_FAILED"
	MigrationInvalid = "MIGRATION_INVALID"
	LockTimeout      = "LOCK_TIMEOUT"
	RolloutNotFound  = "ROLLOUT_NOT_FOUND"
	RolloutRunning   = "ROLLOUT_RUNNING"
	SchemaOutdated   = "SCHEMA_OUTDATED"
	SeedFailed       = "SEED_FAILED"
	RolloutEnded     = "ROLLOUT_ENDED"
	MigrationBlocked = "MIGRATION_BLOCKED"
	ReleaseNotJudged = "RELEASE_NOT_JUDGED"
	AtlasCutOff      = "ATLAS_CUT_OFF"
	PluginRequired   = "PLUGIN_REQUIRED"
)

// Reasons about the end of a tenant's life, and its copies.
const (
	ConfirmationMismatch = "CONFIRMATION_MISMATCH"
	PurgeTimePassed      = "PURGE_TIME_PASSED"
	DatabaseChanged      = "DATABASE_CHANGED"
	BackupInvalid        = "BACKUP_INVALID"
	BackupMismatch       = "BACKUP_MISMATCH"
	ProgramNotFound      = "PROGRAM_NOT_FOUND"
)

// Reasons about SQL through the gateway.
const (
	SQLError             = "SQL_ERROR"
	StatementTimeout     = "STATEMENT_TIMEOUT"
	TransactionLeftOpen  = "TRANSACTION_LEFT_OPEN"
	StatementNotReadOnly = "STATEMENT_NOT_READ_ONLY"

	TransactionControl    = "TRANSACTION_CONTROL"
	TransactionEnded      = "TRANSACTION_ENDED"
	TransactionIdle       = "TRANSACTION_IDLE"
	TransactionRolledBack = "TRANSACTION_ROLLED_BACK"
	TransactionTimeout    = "TRANSACTION_TIMEOUT"

	ResultTooLarge       = "RESULT_TOO_LARGE"
	ConnectionsExhausted = "CONNECTIONS_EXHAUSTED"
	DatabaseUnavailable  = "DATABASE_UNAVAILABLE"
	SchemaTooOld         = "SCHEMA_TOO_OLD"
)

// reasonOf names a status that came without a reason of ours.
func reasonOf(code codes.Code) string {
	switch code {
	case codes.Unavailable:
		return Unavailable
	case codes.DeadlineExceeded:
		return DeadlineExceeded
	case codes.Canceled:
		return Cancelled
	case codes.Unimplemented:
		return NotImplemented
	case codes.Unauthenticated:
		return CredentialsInvalid
	case codes.PermissionDenied:
		return MethodNotAllowed
	case codes.ResourceExhausted:
		return TooBusy
	default:
		return Internal
	}
}

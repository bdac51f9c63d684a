-- What tenants are made of, and how they are brought to it.
CREATE TABLE releases (
    hash text PRIMARY KEY,
    core_version text NOT NULL,
    content bytea NOT NULL,
    is_current boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE releases IS 'Immutable copies of all migration sets; new tenants are born on the current one';
CREATE UNIQUE INDEX releases_is_current_key ON releases (is_current) WHERE is_current;

CREATE TABLE rollouts (
    id uuid PRIMARY KEY,
    request_id text UNIQUE,
    release text NOT NULL REFERENCES releases (hash),
    state text NOT NULL DEFAULT 'RUNNING',
    selector jsonb NOT NULL,
    concurrency integer NOT NULL,
    lock_timeout_ms bigint NOT NULL,
    statement_timeout_ms bigint NOT NULL,
    force boolean NOT NULL,
    actor text NOT NULL,
    total integer NOT NULL DEFAULT 0,
    running integer NOT NULL DEFAULT 0,
    succeeded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    last_result bigint NOT NULL DEFAULT 0,
    locked_by text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT rollouts_state_check CHECK (state IN ('RUNNING', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED'))
);
COMMENT ON TABLE rollouts IS 'Operations over many tenants, each leased to the copy that works on it';
CREATE INDEX rollouts_release_idx ON rollouts (release);
CREATE UNIQUE INDEX rollouts_one_runs_key ON rollouts ((true)) WHERE state IN ('RUNNING', 'PAUSED');

CREATE TABLE rollout_results (
    rollout_id uuid NOT NULL REFERENCES rollouts (id),
    company_id uuid NOT NULL,
    sequence bigint NOT NULL,
    slug text NOT NULL,
    cluster text NOT NULL,
    state text NOT NULL,
    from_version text NOT NULL,
    to_version text NOT NULL,
    files integer NOT NULL,
    duration_ns bigint NOT NULL,
    reason text NOT NULL DEFAULT '',
    message text NOT NULL DEFAULT '',
    set_name text NOT NULL DEFAULT '',
    file text NOT NULL DEFAULT '',
    statement text NOT NULL DEFAULT '',
    sqlstate text NOT NULL DEFAULT '',
    ended_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout_id, company_id),
    CONSTRAINT rollout_results_state_check CHECK (state IN ('SUCCEEDED', 'FAILED', 'SKIPPED'))
);
COMMENT ON TABLE rollout_results IS 'How the migration of each tenant of a rollout went; sequence is the order in which they came';
CREATE UNIQUE INDEX rollout_results_sequence_key ON rollout_results (rollout_id, sequence);
CREATE INDEX rollout_results_company_id_idx ON rollout_results (company_id, ended_at DESC);

-- Databases made ahead for companies that have not come yet. Each bears its final name and has its role; giving it to a
-- company deletes the row.
CREATE TABLE spares (
    id uuid PRIMARY KEY,
    cluster text NOT NULL,
    release text NOT NULL REFERENCES releases (hash),
    ready boolean NOT NULL DEFAULT false,
    made_by text NOT NULL,
    lease_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE spares IS 'Databases made ahead; until one is ready, and while it is changed, it is leased to the copy that works on it';
CREATE INDEX spares_cluster_idx ON spares (cluster, release) WHERE ready;
CREATE INDEX spares_release_idx ON spares (release);

-- Where an attempt's database comes from: nothing is made yet, it is being cloned, or it was a spare.
ALTER TABLE attempts ADD COLUMN source text NOT NULL DEFAULT '';
ALTER TABLE attempts ADD CONSTRAINT attempts_source_check CHECK (source IN ('', 'CLONE', 'SPARE'));
-- The company whose database is copied, for a clone of a tenant.
ALTER TABLE attempts ADD COLUMN copy_of uuid;

-- What the lint gate found in a release, judged once against the one that was current; null is not judged yet.
ALTER TABLE releases ADD COLUMN findings jsonb;

ALTER TABLE rollouts ADD COLUMN canary_size integer NOT NULL DEFAULT 1;
ALTER TABLE rollouts ADD COLUMN canary_soak_ms bigint NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN wave_growth integer NOT NULL DEFAULT 10;
ALTER TABLE rollouts ADD COLUMN budget_count integer NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN budget_percent double precision NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN state_reason text NOT NULL DEFAULT '';
ALTER TABLE rollouts ADD COLUMN wave integer NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN wave_size integer NOT NULL DEFAULT 0;
-- Results that were there when the wave began.
ALTER TABLE rollouts ADD COLUMN wave_base integer NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN soak_until timestamptz;
ALTER TABLE rollouts ADD COLUMN findings jsonb NOT NULL DEFAULT '[]';

-- Databases that are to go: what a deletion closed, and what a restore put aside or could not finish. A row is made
-- before the database is, or before it loses its company, and goes when the database is gone.
CREATE TABLE condemned (
    database_id uuid PRIMARY KEY,
    cluster text NOT NULL,
    company_id uuid,
    reason text NOT NULL,
    drop_after timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT condemned_reason_check CHECK (reason IN ('DELETED', 'REPLACED', 'RESTORING', 'SPARE'))
);
COMMENT ON TABLE condemned IS 'Databases that are to be dropped from a time on';
CREATE INDEX condemned_drop_after_idx ON condemned (drop_after);
CREATE UNIQUE INDEX condemned_company_id_key ON condemned (company_id) WHERE reason = 'DELETED';

-- Durable work is River's, whose tables are made by its own migrations.
CREATE SCHEMA river;

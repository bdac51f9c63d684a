-- Companies, where their databases are, and what is told of them.

CREATE TABLE clusters (
    name text PRIMARY KEY,
    host text NOT NULL,
    port integer NOT NULL,
    tls text NOT NULL,
    max_tenants integer NOT NULL,
    connection_budget integer NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    tenants integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT clusters_port_check CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT clusters_tls_check CHECK (tls IN ('DISABLE', 'REQUIRE', 'VERIFY_FULL')),
    CONSTRAINT clusters_tenants_check CHECK (tenants >= 0)
);
COMMENT ON TABLE clusters IS 'PostgreSQL servers that tenant databases live on; tenants counts them, so that placing one reads no other table';

CREATE TABLE usage_types (
    name text PRIMARY KEY,
    title text NOT NULL
);
COMMENT ON TABLE usage_types IS 'What a company can use the product for';

CREATE TABLE plugins (
    name text PRIMARY KEY,
    title text NOT NULL,
    description text NOT NULL,
    kind text NOT NULL,
    usage_types text[] NOT NULL DEFAULT '{}',
    requires text[] NOT NULL DEFAULT '{}',
    CONSTRAINT plugins_kind_check CHECK (kind IN ('payment', 'meter', 'solar-home-system', 'messaging', 'operations'))
);
COMMENT ON TABLE plugins IS 'The catalogue: name is also that of the migration set; no usage types means that it suits all';

CREATE TABLE companies (
    id uuid PRIMARY KEY,
    slug text NOT NULL,
    name text NOT NULL,
    email text NOT NULL DEFAULT '',
    phone text NOT NULL DEFAULT '',
    address text NOT NULL DEFAULT '',
    country_code text NOT NULL DEFAULT '',
    usage_type text REFERENCES usage_types (name),
    state text NOT NULL,
    state_reason text NOT NULL DEFAULT '',
    route_version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT companies_state_check CHECK (state IN
        ('PROVISIONING', 'ACTIVE', 'SUSPENDED', 'MAINTENANCE', 'DELETING', 'DELETED', 'FAILED'))
);
COMMENT ON TABLE companies IS 'Tenants; rows are never deleted';
CREATE UNIQUE INDEX companies_slug_key ON companies (slug) WHERE state NOT IN ('FAILED', 'DELETED');
CREATE INDEX companies_usage_type_idx ON companies (usage_type);

CREATE TABLE tenant_databases (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL UNIQUE REFERENCES companies (id),
    cluster text NOT NULL REFERENCES clusters (name),
    schema_version text NOT NULL DEFAULT '',
    password_version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenant_databases IS 'Where each company''s database is; it is named after id';
CREATE INDEX tenant_databases_cluster_idx ON tenant_databases (cluster, company_id);

CREATE TABLE company_plugins (
    company_id uuid NOT NULL REFERENCES companies (id),
    plugin text NOT NULL REFERENCES plugins (name),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_id, plugin)
);
COMMENT ON TABLE company_plugins IS 'Which company has which plugin';
CREATE INDEX company_plugins_plugin_idx ON company_plugins (plugin);

CREATE TABLE reservations (
    request_id text PRIMARY KEY,
    company_id uuid NOT NULL UNIQUE REFERENCES companies (id),
    owner_id uuid NOT NULL,
    request jsonb NOT NULL,
    password_hash text,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE reservations IS 'Signups by their caller''s id; request is all of it but the password, to tell a repeat from another';

CREATE TABLE audit_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    company_id uuid REFERENCES companies (id),
    subject text NOT NULL DEFAULT '',
    details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE audit_events IS 'Who changed what, written in the transaction that changes it';
CREATE INDEX audit_events_company_id_idx ON audit_events (company_id, id DESC);
CREATE INDEX audit_events_action_idx ON audit_events (action, id DESC);

CREATE TABLE route_sequence (
    single boolean PRIMARY KEY DEFAULT true,
    last bigint NOT NULL,
    CONSTRAINT route_sequence_single_check CHECK (single)
);
COMMENT ON TABLE route_sequence IS 'One row that each route change locks: numbers without gaps, in the order of commits';
INSERT INTO route_sequence (last) VALUES (0);

CREATE TABLE route_events (
    sequence bigint PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    message bytea NOT NULL
);
COMMENT ON TABLE route_events IS 'Route changes as WatchRoutes tells them; old ones are pruned';

-- How the company has set things up, and what it looks back at. Of a table of settings there is one row.

CREATE TABLE main_settings (
    id smallint PRIMARY KEY DEFAULT 1,
    company_id uuid NOT NULL UNIQUE,
    company_name text NOT NULL,
    company_slug text NOT NULL,
    company_email text,
    company_phone text,
    company_address text,
    country_id bigint REFERENCES countries (id),
    usage_type text,
    currency_code char(3) NOT NULL DEFAULT 'USD',
    locale text NOT NULL DEFAULT 'en',
    site_title text NOT NULL,
    vat_energy_percent numeric(6, 3) NOT NULL DEFAULT 0,
    vat_appliance_percent numeric(6, 3) NOT NULL DEFAULT 0,
    sms_gateway text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT main_settings_id_check CHECK (id = 1),
    CONSTRAINT main_settings_company_name_check CHECK (company_name <> ''),
    CONSTRAINT main_settings_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT main_settings_vat_energy_percent_check CHECK (vat_energy_percent BETWEEN 0 AND 100),
    CONSTRAINT main_settings_vat_appliance_percent_check CHECK (vat_appliance_percent BETWEEN 0 AND 100)
);
COMMENT ON TABLE main_settings IS 'The company whose database this is, and its main settings';
CREATE INDEX main_settings_country_id_idx ON main_settings (country_id);

CREATE TABLE map_settings (
    id smallint PRIMARY KEY DEFAULT 1,
    latitude numeric(9, 6) NOT NULL DEFAULT 0,
    longitude numeric(9, 6) NOT NULL DEFAULT 0,
    zoom smallint NOT NULL DEFAULT 2,
    provider text NOT NULL DEFAULT 'openstreetmap',
    api_key_encrypted bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT map_settings_id_check CHECK (id = 1),
    CONSTRAINT map_settings_latitude_check CHECK (latitude BETWEEN -90 AND 90),
    CONSTRAINT map_settings_longitude_check CHECK (longitude BETWEEN -180 AND 180),
    CONSTRAINT map_settings_zoom_check CHECK (zoom BETWEEN 0 AND 22),
    CONSTRAINT map_settings_provider_check CHECK (provider IN ('openstreetmap', 'bing'))
);
COMMENT ON TABLE map_settings IS 'Where the map opens, and whose tiles it shows';

CREATE TABLE plugins (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    state text NOT NULL DEFAULT 'enabled',
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plugins_name_check CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    CONSTRAINT plugins_state_check CHECK (state IN ('enabled', 'disabled'))
);
COMMENT ON TABLE plugins IS 'Whether the application uses a plugin; that the tables of one are there is not said here';

CREATE TABLE registration_tail (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tag text NOT NULL UNIQUE,
    component text NOT NULL,
    position smallint NOT NULL,
    adjusted_at timestamptz,
    adjusted_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT registration_tail_tag_check CHECK (tag <> ''),
    CONSTRAINT registration_tail_position_check CHECK (position > 0)
);
COMMENT ON TABLE registration_tail IS 'Checklist of what to set up after signing up';
CREATE INDEX registration_tail_adjusted_by_idx ON registration_tail (adjusted_by);

CREATE TABLE logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    subject_kind text NOT NULL,
    subject_id text NOT NULL,
    action text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT logs_subject_kind_check CHECK (subject_kind <> ''),
    CONSTRAINT logs_action_check CHECK (action <> '')
);
COMMENT ON TABLE logs IS 'What was done to what by whom; the subject may be gone, so it is named and not referenced';
CREATE INDEX logs_subject_idx ON logs (subject_kind, subject_id, created_at);
CREATE INDEX logs_created_at_idx ON logs (created_at);
CREATE INDEX logs_user_id_idx ON logs (user_id);

CREATE TABLE reports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mini_grid_id bigint REFERENCES mini_grids (id) ON DELETE CASCADE,
    kind text NOT NULL,
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    name text NOT NULL,
    location text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT reports_kind_check CHECK (kind IN ('weekly', 'monthly', 'custom')),
    CONSTRAINT reports_ends_on_check CHECK (ends_on >= starts_on)
);
COMMENT ON TABLE reports IS 'Reports that were made: where each file lies, not its bytes';
CREATE INDEX reports_starts_on_idx ON reports (kind, starts_on);
CREATE INDEX reports_mini_grid_id_idx ON reports (mini_grid_id);

CREATE TABLE targets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id bigint REFERENCES clusters (id) ON DELETE CASCADE,
    mini_grid_id bigint REFERENCES mini_grids (id) ON DELETE CASCADE,
    target_date date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT targets_cluster_id_target_date_key UNIQUE (cluster_id, target_date),
    CONSTRAINT targets_mini_grid_id_target_date_key UNIQUE (mini_grid_id, target_date),
    CONSTRAINT targets_owner_check CHECK (num_nonnulls(cluster_id, mini_grid_id) = 1)
);
COMMENT ON TABLE targets IS 'What a cluster or a mini-grid should have reached by a day';

CREATE TABLE sub_targets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target_id bigint NOT NULL REFERENCES targets (id) ON DELETE CASCADE,
    connection_group_id bigint NOT NULL REFERENCES connection_groups (id),
    revenue numeric(18, 4) NOT NULL DEFAULT 0,
    new_connections integer NOT NULL DEFAULT 0,
    connected_power_w numeric(14, 2) NOT NULL DEFAULT 0,
    energy_kwh_per_month numeric(16, 4) NOT NULL DEFAULT 0,
    average_revenue_per_month numeric(18, 4) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sub_targets_target_id_connection_group_id_key UNIQUE (target_id, connection_group_id),
    CONSTRAINT sub_targets_revenue_check CHECK (revenue >= 0),
    CONSTRAINT sub_targets_new_connections_check CHECK (new_connections >= 0),
    CONSTRAINT sub_targets_connected_power_w_check CHECK (connected_power_w >= 0),
    CONSTRAINT sub_targets_energy_kwh_per_month_check CHECK (energy_kwh_per_month >= 0),
    CONSTRAINT sub_targets_average_revenue_per_month_check CHECK (average_revenue_per_month >= 0)
);
COMMENT ON TABLE sub_targets IS 'The figures of a target for each group of customers';
CREATE INDEX sub_targets_connection_group_id_idx ON sub_targets (connection_group_id);

-- Customers and their devices from a spreadsheet, many at once. Where spreadsheets come from a survey service, its
-- account is in the credentials.

CREATE TABLE bulk_registration_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    source_url text NOT NULL,
    username text NOT NULL,
    password_encrypted bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bulk_registration_credentials_id_check CHECK (id = 1),
    CONSTRAINT bulk_registration_credentials_source_url_check CHECK (source_url ~ '^https?://')
);
COMMENT ON TABLE bulk_registration_credentials IS 'Account of a survey service; its password is encrypted by the application';

CREATE TABLE bulk_registration_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    mini_grid_id bigint REFERENCES mini_grids (id),
    file_name text NOT NULL,
    file_sha256 bytea NOT NULL UNIQUE,
    columns jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL DEFAULT 'uploaded',
    rows_total integer NOT NULL DEFAULT 0,
    rows_done integer NOT NULL DEFAULT 0,
    rows_failed integer NOT NULL DEFAULT 0,
    finished_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bulk_registration_requests_file_sha256_check CHECK (octet_length(file_sha256) = 32),
    CONSTRAINT bulk_registration_requests_state_check CHECK (state IN ('uploaded', 'running', 'done', 'failed')),
    CONSTRAINT bulk_registration_requests_rows_check
        CHECK (rows_done >= 0 AND rows_failed >= 0 AND rows_done + rows_failed <= rows_total)
);
COMMENT ON TABLE bulk_registration_requests IS 'Spreadsheets that were handed in; the hash keeps one from being read twice';
CREATE INDEX bulk_registration_requests_user_id_idx ON bulk_registration_requests (user_id);
CREATE INDEX bulk_registration_requests_mini_grid_id_idx ON bulk_registration_requests (mini_grid_id);

CREATE TABLE bulk_registration_rows (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bulk_registration_request_id bigint NOT NULL REFERENCES bulk_registration_requests (id) ON DELETE CASCADE,
    number integer NOT NULL,
    fields jsonb NOT NULL,
    person_id bigint REFERENCES people (id) ON DELETE SET NULL,
    device_id bigint REFERENCES devices (id) ON DELETE SET NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bulk_registration_rows_request_id_number_key UNIQUE (bulk_registration_request_id, number),
    CONSTRAINT bulk_registration_rows_number_check CHECK (number > 0)
);
COMMENT ON TABLE bulk_registration_rows IS 'Rows of a spreadsheet, and the customer and device each became, or why not';
CREATE INDEX bulk_registration_rows_person_id_idx ON bulk_registration_rows (person_id);
CREATE INDEX bulk_registration_rows_device_id_idx ON bulk_registration_rows (device_id);

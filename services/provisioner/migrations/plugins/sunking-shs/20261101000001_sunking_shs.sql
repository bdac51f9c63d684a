-- Solar home systems by Sun King, which take tokens for days.

CREATE TABLE sunking_shs_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    auth_url text NOT NULL,
    api_url text NOT NULL,
    client_id text NOT NULL,
    client_secret_encrypted bytea NOT NULL,
    access_token_encrypted bytea,
    access_token_expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sunking_shs_credentials_id_check CHECK (id = 1),
    CONSTRAINT sunking_shs_credentials_auth_url_check CHECK (auth_url ~ '^https?://'),
    CONSTRAINT sunking_shs_credentials_api_url_check CHECK (api_url ~ '^https?://'),
    CONSTRAINT sunking_shs_credentials_access_token_check
        CHECK ((access_token_encrypted IS NULL) = (access_token_expires_at IS NULL))
);
COMMENT ON TABLE sunking_shs_credentials IS 'The company''s account at Sun King; its secrets are encrypted by the application';

CREATE TABLE sunking_shs_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint REFERENCES transactions (id),
    solar_home_system_id bigint NOT NULL REFERENCES solar_home_systems (device_id),
    token_id bigint UNIQUE REFERENCES tokens (id),
    command text NOT NULL DEFAULT 'add_days',
    days numeric(8, 2),
    state text NOT NULL DEFAULT 'requested',
    attempts smallint NOT NULL DEFAULT 0,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sunking_shs_transactions_command_check CHECK (command IN ('add_days', 'unlock')),
    CONSTRAINT sunking_shs_transactions_days_check CHECK (days > 0),
    CONSTRAINT sunking_shs_transactions_add_days_check CHECK ((command = 'add_days') = (days IS NOT NULL)),
    CONSTRAINT sunking_shs_transactions_state_check CHECK (state IN ('requested', 'succeeded', 'failed')),
    CONSTRAINT sunking_shs_transactions_token_check CHECK (state <> 'succeeded' OR token_id IS NOT NULL),
    CONSTRAINT sunking_shs_transactions_attempts_check CHECK (attempts >= 0)
);
COMMENT ON TABLE sunking_shs_transactions IS 'Tokens asked for at Sun King, and what became of each';
CREATE INDEX sunking_shs_transactions_requested_idx ON sunking_shs_transactions (created_at) WHERE state = 'requested';
CREATE INDEX sunking_shs_transactions_transaction_id_idx ON sunking_shs_transactions (transaction_id);
CREATE INDEX sunking_shs_transactions_solar_home_system_id_idx ON sunking_shs_transactions (solar_home_system_id);

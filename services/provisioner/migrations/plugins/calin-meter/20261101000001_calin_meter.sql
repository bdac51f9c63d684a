-- Prepaid meters by Calin, which take STS tokens that Calin's service makes.

CREATE TABLE calin_meter_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    api_url text NOT NULL,
    user_id text NOT NULL,
    api_key_encrypted bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calin_meter_credentials_id_check CHECK (id = 1),
    CONSTRAINT calin_meter_credentials_api_url_check CHECK (api_url ~ '^https?://')
);
COMMENT ON TABLE calin_meter_credentials IS 'The company''s account at Calin; its key is encrypted by the application';

CREATE TABLE calin_meter_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint REFERENCES transactions (id),
    meter_id bigint NOT NULL REFERENCES meters (device_id),
    token_id bigint UNIQUE REFERENCES tokens (id),
    command text NOT NULL DEFAULT 'credit',
    energy_kwh numeric(16, 4),
    state text NOT NULL DEFAULT 'requested',
    attempts smallint NOT NULL DEFAULT 0,
    response_code text,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT calin_meter_transactions_command_check CHECK (command IN ('credit', 'clear_credit', 'clear_tamper', 'max_power')),
    CONSTRAINT calin_meter_transactions_energy_kwh_check CHECK (energy_kwh > 0),
    CONSTRAINT calin_meter_transactions_credit_check CHECK (command <> 'credit' OR energy_kwh IS NOT NULL),
    CONSTRAINT calin_meter_transactions_state_check CHECK (state IN ('requested', 'succeeded', 'failed')),
    CONSTRAINT calin_meter_transactions_token_check CHECK (state <> 'succeeded' OR token_id IS NOT NULL),
    CONSTRAINT calin_meter_transactions_attempts_check CHECK (attempts >= 0)
);
COMMENT ON TABLE calin_meter_transactions IS 'Tokens asked for at Calin, and what became of each';
CREATE INDEX calin_meter_transactions_requested_idx ON calin_meter_transactions (created_at) WHERE state = 'requested';
-- A payment buys energy once, however often Calin had to be asked.
CREATE UNIQUE INDEX calin_meter_transactions_credit_key
    ON calin_meter_transactions (transaction_id, meter_id) WHERE command = 'credit' AND state <> 'failed';
CREATE INDEX calin_meter_transactions_transaction_id_idx ON calin_meter_transactions (transaction_id);
CREATE INDEX calin_meter_transactions_meter_id_idx ON calin_meter_transactions (meter_id);

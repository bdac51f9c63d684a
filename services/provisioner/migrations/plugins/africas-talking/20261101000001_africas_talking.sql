-- Text messages through Africa's Talking.

CREATE TABLE africas_talking_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    username text NOT NULL,
    api_key_encrypted bytea NOT NULL,
    short_code text,
    environment text NOT NULL DEFAULT 'sandbox',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT africas_talking_credentials_id_check CHECK (id = 1),
    CONSTRAINT africas_talking_credentials_environment_check CHECK (environment IN ('sandbox', 'live'))
);
COMMENT ON TABLE africas_talking_credentials IS 'The company''s account with the sender; its key is encrypted by the application';

CREATE TABLE africas_talking_messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sms_id bigint NOT NULL UNIQUE REFERENCES sms (id) ON DELETE CASCADE,
    message_id text NOT NULL UNIQUE,
    status_code integer NOT NULL,
    state text NOT NULL DEFAULT 'sent',
    failure_reason text,
    cost numeric(18, 6),
    cost_currency_code char(3),
    network_code text,
    retries smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT africas_talking_messages_state_check
        CHECK (state IN ('sent', 'submitted', 'buffered', 'delivered', 'rejected', 'failed', 'expired')),
    CONSTRAINT africas_talking_messages_cost_check CHECK (cost >= 0),
    CONSTRAINT africas_talking_messages_cost_currency_check CHECK ((cost IS NULL) = (cost_currency_code IS NULL)),
    CONSTRAINT africas_talking_messages_cost_currency_code_check CHECK (cost_currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT africas_talking_messages_retries_check CHECK (retries >= 0)
);
COMMENT ON TABLE africas_talking_messages IS 'What the sender says of each message: its state there and what it cost';
CREATE INDEX africas_talking_messages_undelivered_idx
    ON africas_talking_messages (created_at) WHERE state IN ('sent', 'submitted', 'buffered');

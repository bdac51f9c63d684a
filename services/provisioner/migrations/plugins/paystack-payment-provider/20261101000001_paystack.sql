-- Card, bank and mobile money payments by Paystack.

CREATE TABLE paystack_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    public_key text NOT NULL,
    secret_key_encrypted bytea NOT NULL,
    merchant_name text,
    environment text NOT NULL DEFAULT 'test',
    callback_url text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT paystack_credentials_id_check CHECK (id = 1),
    CONSTRAINT paystack_credentials_environment_check CHECK (environment IN ('test', 'live')),
    CONSTRAINT paystack_credentials_callback_url_check CHECK (callback_url ~ '^https://')
);
COMMENT ON TABLE paystack_credentials IS 'The company''s keys at Paystack; the secret one is encrypted by the application';

CREATE TABLE paystack_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint UNIQUE REFERENCES transactions (id),
    person_id bigint REFERENCES people (id),
    device_id bigint REFERENCES devices (id),
    reference text NOT NULL UNIQUE,
    access_code text,
    amount numeric(18, 4) NOT NULL,
    currency_code char(3) NOT NULL,
    fee numeric(18, 4),
    payment_url text,
    state text NOT NULL DEFAULT 'requested',
    attempts smallint NOT NULL DEFAULT 0,
    paid_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT paystack_transactions_reference_check CHECK (reference <> ''),
    CONSTRAINT paystack_transactions_amount_check CHECK (amount > 0),
    CONSTRAINT paystack_transactions_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT paystack_transactions_fee_check CHECK (fee >= 0),
    CONSTRAINT paystack_transactions_state_check CHECK (state IN ('requested', 'succeeded', 'failed', 'abandoned')),
    CONSTRAINT paystack_transactions_attempts_check CHECK (attempts >= 0),
    CONSTRAINT paystack_transactions_paid_at_check CHECK ((state = 'succeeded') = (paid_at IS NOT NULL))
);
COMMENT ON TABLE paystack_transactions IS 'Payments asked for at Paystack, by the reference both sides know';
CREATE INDEX paystack_transactions_requested_idx ON paystack_transactions (created_at) WHERE state = 'requested';
CREATE INDEX paystack_transactions_person_id_idx ON paystack_transactions (person_id);
CREATE INDEX paystack_transactions_device_id_idx ON paystack_transactions (device_id);

CREATE TABLE paystack_webhook_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    paystack_transaction_id bigint REFERENCES paystack_transactions (id) ON DELETE CASCADE,
    event text NOT NULL,
    payload_sha256 bytea NOT NULL UNIQUE,
    payload jsonb NOT NULL,
    processed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT paystack_webhook_events_payload_sha256_check CHECK (octet_length(payload_sha256) = 32)
);
COMMENT ON TABLE paystack_webhook_events IS 'What Paystack reported; the hash keeps a repeated report from counting twice';
CREATE INDEX paystack_webhook_events_unprocessed_idx ON paystack_webhook_events (created_at) WHERE processed_at IS NULL;
CREATE INDEX paystack_webhook_events_paystack_transaction_id_idx ON paystack_webhook_events (paystack_transaction_id);

-- Card, bank and mobile money payments by Flutterwave.

CREATE TABLE flutterwave_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    public_key text NOT NULL,
    secret_key_encrypted bytea NOT NULL,
    encryption_key_encrypted bytea NOT NULL,
    webhook_hash_encrypted bytea,
    environment text NOT NULL DEFAULT 'test',
    redirect_url text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT flutterwave_credentials_id_check CHECK (id = 1),
    CONSTRAINT flutterwave_credentials_environment_check CHECK (environment IN ('test', 'live')),
    CONSTRAINT flutterwave_credentials_redirect_url_check CHECK (redirect_url ~ '^https://')
);
COMMENT ON TABLE flutterwave_credentials IS 'The company''s keys at Flutterwave; the secret ones are encrypted by the application';

CREATE TABLE flutterwave_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint UNIQUE REFERENCES transactions (id),
    person_id bigint REFERENCES people (id),
    device_id bigint REFERENCES devices (id),
    tx_ref text NOT NULL UNIQUE,
    flutterwave_id bigint UNIQUE,
    amount numeric(18, 4) NOT NULL,
    charged_amount numeric(18, 4),
    currency_code char(3) NOT NULL,
    method text,
    payment_link text,
    state text NOT NULL DEFAULT 'requested',
    verified_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT flutterwave_transactions_tx_ref_check CHECK (tx_ref <> ''),
    CONSTRAINT flutterwave_transactions_amount_check CHECK (amount > 0),
    CONSTRAINT flutterwave_transactions_charged_amount_check CHECK (charged_amount >= amount),
    CONSTRAINT flutterwave_transactions_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT flutterwave_transactions_method_check
        CHECK (method IN ('card', 'bank_transfer', 'ussd', 'mobile_money', 'account')),
    CONSTRAINT flutterwave_transactions_state_check CHECK (state IN ('requested', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT flutterwave_transactions_verified_at_check CHECK (state <> 'succeeded' OR verified_at IS NOT NULL)
);
COMMENT ON TABLE flutterwave_transactions IS 'Payments asked for at Flutterwave; none has succeeded before it was verified';
CREATE INDEX flutterwave_transactions_requested_idx ON flutterwave_transactions (created_at) WHERE state = 'requested';
CREATE INDEX flutterwave_transactions_person_id_idx ON flutterwave_transactions (person_id);
CREATE INDEX flutterwave_transactions_device_id_idx ON flutterwave_transactions (device_id);

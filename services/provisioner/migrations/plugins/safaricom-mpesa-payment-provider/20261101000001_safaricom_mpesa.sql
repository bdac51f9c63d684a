-- M-Pesa by Safaricom: payments asked for on the customer's phone (STK push), and paybill payments that just come in.

CREATE TABLE safaricom_mpesa_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    short_code text NOT NULL,
    consumer_key text NOT NULL,
    consumer_secret_encrypted bytea NOT NULL,
    passkey_encrypted bytea NOT NULL,
    environment text NOT NULL DEFAULT 'sandbox',
    urls_registered_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT safaricom_mpesa_credentials_id_check CHECK (id = 1),
    CONSTRAINT safaricom_mpesa_credentials_short_code_check CHECK (short_code ~ '^[0-9]{5,7}$'),
    CONSTRAINT safaricom_mpesa_credentials_environment_check CHECK (environment IN ('sandbox', 'production'))
);
COMMENT ON TABLE safaricom_mpesa_credentials IS 'The company''s paybill at Safaricom; its secrets are encrypted by the application';

CREATE TABLE safaricom_mpesa_requests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint REFERENCES people (id),
    device_id bigint REFERENCES devices (id),
    merchant_request_id text NOT NULL UNIQUE,
    checkout_request_id text NOT NULL UNIQUE,
    phone text NOT NULL,
    amount numeric(18, 4) NOT NULL,
    account_reference text NOT NULL,
    state text NOT NULL DEFAULT 'requested',
    result_code integer,
    result_description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT safaricom_mpesa_requests_phone_check CHECK (phone ~ '^254[0-9]{9}$'),
    CONSTRAINT safaricom_mpesa_requests_amount_check CHECK (amount >= 1 AND amount = trunc(amount)),
    CONSTRAINT safaricom_mpesa_requests_state_check
        CHECK (state IN ('requested', 'succeeded', 'failed', 'cancelled', 'timed_out'))
);
COMMENT ON TABLE safaricom_mpesa_requests IS 'Payments asked for on a phone; M-Pesa takes whole shillings only';
CREATE INDEX safaricom_mpesa_requests_requested_idx ON safaricom_mpesa_requests (created_at) WHERE state = 'requested';
CREATE INDEX safaricom_mpesa_requests_person_id_idx ON safaricom_mpesa_requests (person_id);
CREATE INDEX safaricom_mpesa_requests_device_id_idx ON safaricom_mpesa_requests (device_id);

CREATE TABLE safaricom_mpesa_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint UNIQUE REFERENCES transactions (id),
    request_id bigint UNIQUE REFERENCES safaricom_mpesa_requests (id),
    receipt_number text NOT NULL UNIQUE,
    phone text NOT NULL,
    amount numeric(18, 4) NOT NULL,
    bill_reference text NOT NULL,
    paid_at timestamptz NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT safaricom_mpesa_transactions_receipt_number_check CHECK (receipt_number ~ '^[A-Z0-9]{8,12}$'),
    CONSTRAINT safaricom_mpesa_transactions_amount_check CHECK (amount > 0)
);
COMMENT ON TABLE safaricom_mpesa_transactions IS 'Payments M-Pesa confirmed; a receipt number is counted once';
CREATE INDEX safaricom_mpesa_transactions_paid_at_idx ON safaricom_mpesa_transactions (paid_at);

-- Money that comes in, and what it becomes. A row of transactions is a payment whatever its channel; the cash, agent or
-- third-party row beside it is where it came from.

CREATE TABLE transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reference uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    channel text NOT NULL,
    purpose text NOT NULL,
    amount numeric(18, 4) NOT NULL,
    currency_code char(3) NOT NULL,
    sender text NOT NULL,
    message text NOT NULL,
    person_id bigint REFERENCES people (id),
    device_id bigint REFERENCES devices (id),
    state text NOT NULL DEFAULT 'requested',
    failure text,
    settled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transactions_channel_check CHECK (channel IN ('cash', 'agent', 'third_party', 'import')),
    CONSTRAINT transactions_purpose_check
        CHECK (purpose IN ('energy', 'deferred_payment', 'access_rate', 'loan', 'top_up', 'mixed')),
    CONSTRAINT transactions_amount_check CHECK (amount > 0),
    CONSTRAINT transactions_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT transactions_state_check
        CHECK (state IN ('requested', 'processing', 'succeeded', 'failed', 'cancelled', 'refunded')),
    CONSTRAINT transactions_failure_check CHECK (failure IS NULL OR state = 'failed'),
    CONSTRAINT transactions_settled_at_check CHECK (settled_at IS NULL OR state IN ('succeeded', 'refunded'))
);
COMMENT ON TABLE transactions IS 'Payments: sender is who paid, message is what for, usually the serial of a device';
CREATE INDEX transactions_created_at_idx ON transactions (created_at);
CREATE INDEX transactions_message_idx ON transactions (message, created_at);
CREATE INDEX transactions_sender_idx ON transactions (sender, created_at);
CREATE INDEX transactions_unsettled_idx ON transactions (created_at) WHERE state IN ('requested', 'processing');
CREATE INDEX transactions_person_id_idx ON transactions (person_id);
CREATE INDEX transactions_device_id_idx ON transactions (device_id);

CREATE TABLE transaction_conflicts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES transactions (id) ON DELETE CASCADE,
    state text NOT NULL,
    detail text NOT NULL DEFAULT '',
    resolved_by uuid REFERENCES users (id) ON DELETE SET NULL,
    resolved_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT transaction_conflicts_state_check
        CHECK (state IN ('unknown_device', 'unknown_sender', 'below_minimum', 'duplicate', 'token_failed', 'other'))
);
COMMENT ON TABLE transaction_conflicts IS 'Why a payment could not be turned into what was paid for, until somebody sees to it';
CREATE INDEX transaction_conflicts_unresolved_idx ON transaction_conflicts (created_at) WHERE resolved_at IS NULL;
CREATE INDEX transaction_conflicts_transaction_id_idx ON transaction_conflicts (transaction_id);
CREATE INDEX transaction_conflicts_resolved_by_idx ON transaction_conflicts (resolved_by);

CREATE TABLE cash_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL UNIQUE REFERENCES transactions (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id),
    receipt_number text UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE cash_transactions IS 'Payments taken in the office, with who took them';
CREATE INDEX cash_transactions_user_id_idx ON cash_transactions (user_id);

CREATE TABLE agent_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL UNIQUE REFERENCES transactions (id) ON DELETE CASCADE,
    agent_id bigint NOT NULL REFERENCES agents (id),
    mobile_device text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE agent_transactions IS 'Payments taken by an agent in the field';
CREATE INDEX agent_transactions_agent_id_idx ON agent_transactions (agent_id);

CREATE TABLE third_party_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL UNIQUE REFERENCES transactions (id) ON DELETE CASCADE,
    provider text NOT NULL,
    external_id text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT third_party_transactions_provider_external_id_key UNIQUE (provider, external_id),
    CONSTRAINT third_party_transactions_provider_check CHECK (provider <> ''),
    CONSTRAINT third_party_transactions_external_id_check CHECK (external_id <> '')
);
COMMENT ON TABLE third_party_transactions IS 'Payments through a provider; a provider that reports one twice is not counted twice';

CREATE TABLE tokens (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint REFERENCES transactions (id),
    device_id bigint NOT NULL REFERENCES devices (id),
    token text NOT NULL,
    kind text NOT NULL,
    amount numeric(16, 4),
    unit text,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tokens_device_id_token_key UNIQUE (device_id, token),
    CONSTRAINT tokens_token_check CHECK (token <> ''),
    CONSTRAINT tokens_kind_check CHECK (kind IN ('energy', 'time', 'unlock', 'clear_credit', 'clear_tamper', 'power_limit')),
    CONSTRAINT tokens_amount_check CHECK (amount >= 0),
    CONSTRAINT tokens_unit_check CHECK (unit IN ('kWh', 'days', 'W')),
    CONSTRAINT tokens_energy_check CHECK (kind NOT IN ('energy', 'time') OR (amount IS NOT NULL AND unit IS NOT NULL))
);
COMMENT ON TABLE tokens IS 'Codes that give a device energy or time, or set it right';
CREATE INDEX tokens_transaction_id_idx ON tokens (transaction_id);
CREATE INDEX tokens_created_by_idx ON tokens (created_by);

CREATE TABLE access_rate_payments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    access_rate_id bigint NOT NULL REFERENCES access_rates (id),
    meter_id bigint NOT NULL UNIQUE REFERENCES meters (device_id) ON DELETE CASCADE,
    due_on date NOT NULL,
    debt numeric(18, 4) NOT NULL DEFAULT 0,
    unpaid_since date,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT access_rate_payments_debt_check CHECK (debt >= 0)
);
COMMENT ON TABLE access_rate_payments IS 'What each meter owes of its access rate, and when the next is due';
CREATE INDEX access_rate_payments_due_on_idx ON access_rate_payments (due_on);
CREATE INDEX access_rate_payments_access_rate_id_idx ON access_rate_payments (access_rate_id);

CREATE TABLE payment_histories (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint NOT NULL REFERENCES transactions (id),
    person_id bigint NOT NULL REFERENCES people (id),
    token_id bigint REFERENCES tokens (id),
    appliance_rate_id bigint REFERENCES appliance_rates (id),
    access_rate_payment_id bigint REFERENCES access_rate_payments (id),
    loan_id bigint REFERENCES loans (id),
    amount numeric(18, 4) NOT NULL,
    paid_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payment_histories_amount_check CHECK (amount > 0),
    CONSTRAINT payment_histories_paid_for_check
        CHECK (num_nonnulls(token_id, appliance_rate_id, access_rate_payment_id, loan_id) = 1)
);
COMMENT ON TABLE payment_histories IS 'How a payment was divided: each row is a part of it and the one thing it paid for';
CREATE INDEX payment_histories_paid_at_idx ON payment_histories (paid_at);
CREATE INDEX payment_histories_transaction_id_idx ON payment_histories (transaction_id);
CREATE INDEX payment_histories_person_id_idx ON payment_histories (person_id);
CREATE INDEX payment_histories_token_id_idx ON payment_histories (token_id);
CREATE INDEX payment_histories_appliance_rate_id_idx ON payment_histories (appliance_rate_id);
CREATE INDEX payment_histories_access_rate_payment_id_idx ON payment_histories (access_rate_payment_id);
CREATE INDEX payment_histories_loan_id_idx ON payment_histories (loan_id);

CREATE TABLE payment_profiles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    provider text NOT NULL,
    account text NOT NULL,
    is_default boolean NOT NULL DEFAULT false,
    verified_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT payment_profiles_provider_account_key UNIQUE (provider, account),
    CONSTRAINT payment_profiles_provider_check CHECK (provider <> ''),
    CONSTRAINT payment_profiles_account_check CHECK (account <> '')
);
COMMENT ON TABLE payment_profiles IS 'Wallets and accounts a person pays from, by which a payment finds its payer';
CREATE UNIQUE INDEX payment_profiles_person_id_default_key ON payment_profiles (person_id) WHERE is_default;
CREATE INDEX payment_profiles_person_id_idx ON payment_profiles (person_id);

CREATE TABLE revenues (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mini_grid_id bigint REFERENCES mini_grids (id),
    connection_group_id bigint REFERENCES connection_groups (id),
    revenue_on date NOT NULL,
    purpose text NOT NULL,
    amount numeric(18, 4) NOT NULL,
    currency_code char(3) NOT NULL,
    payments integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT revenues_purpose_check CHECK (purpose IN ('energy', 'deferred_payment', 'access_rate', 'loan')),
    CONSTRAINT revenues_amount_check CHECK (amount >= 0),
    CONSTRAINT revenues_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT revenues_payments_check CHECK (payments >= 0)
);
COMMENT ON TABLE revenues IS 'What was earned each day, summed up for charts';
CREATE UNIQUE INDEX revenues_day_key
    ON revenues (revenue_on, purpose, currency_code, COALESCE(mini_grid_id, 0), COALESCE(connection_group_id, 0));
CREATE INDEX revenues_mini_grid_id_idx ON revenues (mini_grid_id);
CREATE INDEX revenues_connection_group_id_idx ON revenues (connection_group_id);

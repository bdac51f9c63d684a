-- Text messages: what was sent and received, and what they say.

CREATE TABLE sms_android_settings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    url text NOT NULL,
    token_encrypted bytea NOT NULL,
    key_encrypted bytea NOT NULL,
    callback text,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_android_settings_url_check CHECK (url ~ '^https?://')
);
COMMENT ON TABLE sms_android_settings IS 'Phones that serve as message gateways; their secrets are encrypted by the application';

CREATE TABLE sms_bodies (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reference text NOT NULL UNIQUE,
    title text NOT NULL,
    body text NOT NULL,
    placeholders text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_bodies_reference_check CHECK (reference ~ '^[a-z][a-z0-9_]*$')
);
COMMENT ON TABLE sms_bodies IS 'Texts of messages by occasion, with [placeholders] that a message fills in';

CREATE TABLE sms (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    direction text NOT NULL,
    phone text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'queued',
    attempts smallint NOT NULL DEFAULT 0,
    sms_body_id bigint REFERENCES sms_bodies (id) ON DELETE SET NULL,
    gateway_id bigint REFERENCES sms_android_settings (id) ON DELETE SET NULL,
    person_id bigint REFERENCES people (id),
    transaction_id bigint REFERENCES transactions (id),
    sender_id uuid REFERENCES users (id) ON DELETE SET NULL,
    sent_at timestamptz,
    delivered_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_direction_check CHECK (direction IN ('incoming', 'outgoing')),
    CONSTRAINT sms_phone_check CHECK (phone <> ''),
    CONSTRAINT sms_state_check CHECK (state IN ('queued', 'sent', 'delivered', 'failed', 'received')),
    CONSTRAINT sms_direction_state_check CHECK ((direction = 'incoming') = (state = 'received')),
    CONSTRAINT sms_attempts_check CHECK (attempts >= 0)
);
COMMENT ON TABLE sms IS 'Text messages that came in or went out';
CREATE INDEX sms_phone_idx ON sms (phone, created_at);
CREATE INDEX sms_queued_idx ON sms (created_at) WHERE state = 'queued';
CREATE INDEX sms_sms_body_id_idx ON sms (sms_body_id);
CREATE INDEX sms_gateway_id_idx ON sms (gateway_id);
CREATE INDEX sms_person_id_idx ON sms (person_id);
CREATE INDEX sms_transaction_id_idx ON sms (transaction_id);
CREATE INDEX sms_sender_id_idx ON sms (sender_id);

CREATE TABLE sms_appliance_remind_rates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    appliance_id bigint NOT NULL UNIQUE REFERENCES appliances (id) ON DELETE CASCADE,
    days_before_due integer NOT NULL,
    days_overdue integer NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_appliance_remind_rates_days_before_due_check CHECK (days_before_due >= 0),
    CONSTRAINT sms_appliance_remind_rates_days_overdue_check CHECK (days_overdue >= 0)
);
COMMENT ON TABLE sms_appliance_remind_rates IS 'When to remind of an instalment of an appliance, before and after it is due';

CREATE TABLE sms_resend_information_keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    keyword text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_resend_information_keys_keyword_check CHECK (keyword ~ '^[[:alnum:]]{2,32}$')
);
COMMENT ON TABLE sms_resend_information_keys IS 'Words by which a customer asks for the last token to be sent again';
CREATE UNIQUE INDEX sms_resend_information_keys_keyword_key ON sms_resend_information_keys (lower(keyword));

CREATE TABLE sms_variable_default_values (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    variable text NOT NULL UNIQUE,
    default_value text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sms_variable_default_values_variable_check CHECK (variable ~ '^[a-z][a-z0-9_]*$')
);
COMMENT ON TABLE sms_variable_default_values IS 'What to show for a placeholder when a text is previewed';

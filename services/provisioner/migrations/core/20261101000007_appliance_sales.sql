-- Appliances that were sold, and how they are paid off.

CREATE TABLE appliance_people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    appliance_id bigint NOT NULL REFERENCES appliances (id),
    person_id bigint NOT NULL REFERENCES people (id),
    device_id bigint REFERENCES devices (id),
    sold_by_user_id uuid REFERENCES users (id) ON DELETE SET NULL,
    sold_by_agent_id bigint REFERENCES agents (id),
    total_cost numeric(18, 4) NOT NULL,
    down_payment numeric(18, 4) NOT NULL DEFAULT 0,
    instalments integer NOT NULL DEFAULT 0,
    first_payment_on date,
    state text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT appliance_people_total_cost_check CHECK (total_cost >= 0),
    CONSTRAINT appliance_people_down_payment_check CHECK (down_payment BETWEEN 0 AND total_cost),
    CONSTRAINT appliance_people_instalments_check CHECK (instalments >= 0),
    CONSTRAINT appliance_people_first_payment_on_check CHECK (instalments = 0 OR first_payment_on IS NOT NULL),
    CONSTRAINT appliance_people_seller_check CHECK (num_nonnulls(sold_by_user_id, sold_by_agent_id) <= 1),
    CONSTRAINT appliance_people_state_check CHECK (state IN ('open', 'paid', 'cancelled', 'written_off'))
);
COMMENT ON TABLE appliance_people IS 'Sales of an appliance to a person, at the terms of that day';
CREATE UNIQUE INDEX appliance_people_device_id_open_key ON appliance_people (device_id) WHERE state = 'open';
CREATE INDEX appliance_people_appliance_id_idx ON appliance_people (appliance_id);
CREATE INDEX appliance_people_person_id_idx ON appliance_people (person_id);
CREATE INDEX appliance_people_device_id_idx ON appliance_people (device_id);
CREATE INDEX appliance_people_sold_by_user_id_idx ON appliance_people (sold_by_user_id);
CREATE INDEX appliance_people_sold_by_agent_id_idx ON appliance_people (sold_by_agent_id);

CREATE TABLE appliance_rates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    appliance_person_id bigint NOT NULL REFERENCES appliance_people (id) ON DELETE CASCADE,
    number integer NOT NULL,
    cost numeric(18, 4) NOT NULL,
    remaining numeric(18, 4) NOT NULL,
    due_on date NOT NULL,
    reminders smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT appliance_rates_appliance_person_id_number_key UNIQUE (appliance_person_id, number),
    CONSTRAINT appliance_rates_number_check CHECK (number >= 0),
    CONSTRAINT appliance_rates_cost_check CHECK (cost >= 0),
    CONSTRAINT appliance_rates_remaining_check CHECK (remaining BETWEEN 0 AND cost),
    CONSTRAINT appliance_rates_reminders_check CHECK (reminders >= 0)
);
COMMENT ON TABLE appliance_rates IS 'Instalments of a sale; number 0 is the down payment';
CREATE INDEX appliance_rates_due_on_idx ON appliance_rates (due_on) WHERE remaining > 0;

CREATE TABLE loans (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL REFERENCES people (id),
    approved_by uuid REFERENCES users (id) ON DELETE SET NULL,
    principal numeric(18, 4) NOT NULL,
    interest_percent numeric(7, 4) NOT NULL DEFAULT 0,
    remaining numeric(18, 4) NOT NULL,
    instalments integer NOT NULL,
    starts_on date NOT NULL,
    state text NOT NULL DEFAULT 'requested',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT loans_principal_check CHECK (principal > 0),
    CONSTRAINT loans_interest_percent_check CHECK (interest_percent >= 0),
    CONSTRAINT loans_remaining_check CHECK (remaining >= 0),
    CONSTRAINT loans_instalments_check CHECK (instalments > 0),
    CONSTRAINT loans_state_check CHECK (state IN ('requested', 'open', 'paid', 'rejected', 'written_off')),
    CONSTRAINT loans_paid_check CHECK (state <> 'paid' OR remaining = 0)
);
COMMENT ON TABLE loans IS 'Money lent to customers, for wiring or productive use';
CREATE INDEX loans_state_idx ON loans (state, starts_on);
CREATE INDEX loans_person_id_idx ON loans (person_id);
CREATE INDEX loans_approved_by_idx ON loans (approved_by);

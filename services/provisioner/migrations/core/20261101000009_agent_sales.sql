-- What agents sell, earn, owe and hand over.

CREATE TABLE agent_assigned_appliances (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id bigint NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    appliance_id bigint NOT NULL REFERENCES appliances (id),
    assigned_by uuid REFERENCES users (id) ON DELETE SET NULL,
    cost numeric(18, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_assigned_appliances_agent_id_appliance_id_key UNIQUE (agent_id, appliance_id),
    CONSTRAINT agent_assigned_appliances_cost_check CHECK (cost >= 0)
);
COMMENT ON TABLE agent_assigned_appliances IS 'Appliances an agent may sell, and what each costs from them';
CREATE INDEX agent_assigned_appliances_appliance_id_idx ON agent_assigned_appliances (appliance_id);
CREATE INDEX agent_assigned_appliances_assigned_by_idx ON agent_assigned_appliances (assigned_by);

CREATE TABLE agent_sold_appliances (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_assigned_appliance_id bigint NOT NULL REFERENCES agent_assigned_appliances (id),
    appliance_person_id bigint NOT NULL UNIQUE REFERENCES appliance_people (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE agent_sold_appliances IS 'Sales of appliances made by agents';
CREATE INDEX agent_sold_appliances_agent_assigned_appliance_id_idx ON agent_sold_appliances (agent_assigned_appliance_id);

CREATE TABLE agent_charges (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id bigint NOT NULL REFERENCES agents (id),
    user_id uuid NOT NULL REFERENCES users (id),
    amount numeric(18, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_charges_amount_check CHECK (amount > 0)
);
COMMENT ON TABLE agent_charges IS 'Credit the office gives an agent to sell from';
CREATE INDEX agent_charges_agent_id_idx ON agent_charges (agent_id);
CREATE INDEX agent_charges_user_id_idx ON agent_charges (user_id);

CREATE TABLE agent_receipts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id bigint NOT NULL REFERENCES agents (id),
    user_id uuid NOT NULL REFERENCES users (id),
    amount numeric(18, 4) NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_receipts_amount_check CHECK (amount > 0)
);
COMMENT ON TABLE agent_receipts IS 'Cash that an agent handed over to the office';
CREATE INDEX agent_receipts_received_at_idx ON agent_receipts (received_at);
CREATE INDEX agent_receipts_agent_id_idx ON agent_receipts (agent_id);
CREATE INDEX agent_receipts_user_id_idx ON agent_receipts (user_id);

CREATE TABLE agent_receipt_details (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_receipt_id bigint NOT NULL UNIQUE REFERENCES agent_receipts (id) ON DELETE CASCADE,
    due numeric(18, 4) NOT NULL,
    collected numeric(18, 4) NOT NULL,
    since_last_visit numeric(18, 4) NOT NULL DEFAULT 0,
    earlier numeric(18, 4) NOT NULL DEFAULT 0,
    remaining numeric(18, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_receipt_details_due_check CHECK (due >= 0),
    CONSTRAINT agent_receipt_details_collected_check CHECK (collected >= 0),
    CONSTRAINT agent_receipt_details_since_last_visit_check CHECK (since_last_visit >= 0),
    CONSTRAINT agent_receipt_details_remaining_check CHECK (remaining = due - collected)
);
COMMENT ON TABLE agent_receipt_details IS 'How the books stood when an agent handed cash over';

CREATE TABLE agent_balance_histories (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id bigint NOT NULL REFERENCES agents (id),
    transaction_id bigint REFERENCES transactions (id),
    agent_charge_id bigint REFERENCES agent_charges (id),
    agent_receipt_id bigint REFERENCES agent_receipts (id),
    agent_sold_appliance_id bigint REFERENCES agent_sold_appliances (id),
    amount numeric(18, 4) NOT NULL,
    balance_after numeric(18, 4) NOT NULL,
    due_after numeric(18, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_balance_histories_cause_check
        CHECK (num_nonnulls(transaction_id, agent_charge_id, agent_receipt_id, agent_sold_appliance_id) = 1),
    CONSTRAINT agent_balance_histories_amount_check CHECK (amount <> 0)
);
COMMENT ON TABLE agent_balance_histories IS 'Every change of an agent''s balance with its one cause; rows are only ever added';
CREATE INDEX agent_balance_histories_agent_id_created_at_idx ON agent_balance_histories (agent_id, created_at);
CREATE INDEX agent_balance_histories_transaction_id_idx ON agent_balance_histories (transaction_id);
CREATE INDEX agent_balance_histories_agent_charge_id_idx ON agent_balance_histories (agent_charge_id);
CREATE INDEX agent_balance_histories_agent_receipt_id_idx ON agent_balance_histories (agent_receipt_id);
CREATE INDEX agent_balance_histories_agent_sold_appliance_id_idx ON agent_balance_histories (agent_sold_appliance_id);

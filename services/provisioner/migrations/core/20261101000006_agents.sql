-- Who sells in the field. What they sell and owe comes after the payments it is about.

CREATE TABLE agent_commissions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    energy_percent numeric(6, 3) NOT NULL DEFAULT 0,
    appliance_percent numeric(6, 3) NOT NULL DEFAULT 0,
    risk_balance numeric(18, 4) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_commissions_name_check CHECK (name <> ''),
    CONSTRAINT agent_commissions_energy_percent_check CHECK (energy_percent BETWEEN 0 AND 100),
    CONSTRAINT agent_commissions_appliance_percent_check CHECK (appliance_percent BETWEEN 0 AND 100),
    CONSTRAINT agent_commissions_risk_balance_check CHECK (risk_balance <= 0)
);
COMMENT ON TABLE agent_commissions IS 'Terms of agents: their share of sales, and how far below zero their balance may go';

CREATE TABLE agents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL UNIQUE REFERENCES people (id),
    user_id uuid UNIQUE REFERENCES users (id) ON DELETE SET NULL,
    mini_grid_id bigint REFERENCES mini_grids (id),
    agent_commission_id bigint NOT NULL REFERENCES agent_commissions (id),
    balance numeric(18, 4) NOT NULL DEFAULT 0,
    due_to_supplier numeric(18, 4) NOT NULL DEFAULT 0,
    commission_revenue numeric(18, 4) NOT NULL DEFAULT 0,
    push_token text,
    state text NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agents_commission_revenue_check CHECK (commission_revenue >= 0),
    CONSTRAINT agents_state_check CHECK (state IN ('active', 'suspended', 'left'))
);
COMMENT ON TABLE agents IS 'People who sell energy and appliances for the company, with what they owe and have earned';
CREATE INDEX agents_mini_grid_id_idx ON agents (mini_grid_id);
CREATE INDEX agents_agent_commission_id_idx ON agents (agent_commission_id);

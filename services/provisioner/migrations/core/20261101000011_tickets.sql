-- What customers complain about and who sees to it.

CREATE TABLE ticket_categories (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    color text NOT NULL DEFAULT '#808080',
    can_be_outsourced boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_categories_name_check CHECK (name <> ''),
    CONSTRAINT ticket_categories_color_check CHECK (color ~ '^#[0-9A-Fa-f]{6}$')
);
COMMENT ON TABLE ticket_categories IS 'Kinds of tickets; some may be given to helpers outside for pay';

CREATE TABLE ticket_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    person_id bigint UNIQUE REFERENCES people (id) ON DELETE CASCADE,
    display_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_users_who_check CHECK (num_nonnulls(user_id, person_id) = 1),
    CONSTRAINT ticket_users_display_name_check CHECK (display_name <> '')
);
COMMENT ON TABLE ticket_users IS 'Whom a ticket can be assigned to: a user, or a helper outside';

CREATE TABLE tickets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket_category_id bigint NOT NULL REFERENCES ticket_categories (id),
    person_id bigint REFERENCES people (id),
    agent_id bigint REFERENCES agents (id),
    device_id bigint REFERENCES devices (id),
    assigned_to bigint REFERENCES ticket_users (id) ON DELETE SET NULL,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    title text NOT NULL,
    content text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT 'open',
    due_at timestamptz,
    closed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tickets_title_check CHECK (title <> ''),
    CONSTRAINT tickets_about_check CHECK (num_nonnulls(person_id, agent_id) <= 1),
    CONSTRAINT tickets_state_check CHECK (state IN ('open', 'in_progress', 'closed')),
    CONSTRAINT tickets_closed_at_check CHECK ((state = 'closed') = (closed_at IS NOT NULL))
);
COMMENT ON TABLE tickets IS 'Complaints, faults and tasks, mostly about a customer or an agent';
CREATE INDEX tickets_open_idx ON tickets (due_at, created_at) WHERE state <> 'closed';
CREATE INDEX tickets_created_at_idx ON tickets (created_at);
CREATE INDEX tickets_ticket_category_id_idx ON tickets (ticket_category_id);
CREATE INDEX tickets_person_id_idx ON tickets (person_id);
CREATE INDEX tickets_agent_id_idx ON tickets (agent_id);
CREATE INDEX tickets_device_id_idx ON tickets (device_id);
CREATE INDEX tickets_assigned_to_idx ON tickets (assigned_to);
CREATE INDEX tickets_created_by_idx ON tickets (created_by);

CREATE TABLE ticket_comments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket_id bigint NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    ticket_user_id bigint REFERENCES ticket_users (id) ON DELETE SET NULL,
    comment text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_comments_comment_check CHECK (comment <> '')
);
COMMENT ON TABLE ticket_comments IS 'What was said about a ticket';
CREATE INDEX ticket_comments_ticket_id_idx ON ticket_comments (ticket_id);
CREATE INDEX ticket_comments_ticket_user_id_idx ON ticket_comments (ticket_user_id);

CREATE TABLE ticket_outsource_payout_reports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month date NOT NULL UNIQUE,
    total numeric(18, 4) NOT NULL,
    location text,
    created_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_outsource_payout_reports_month_check CHECK (EXTRACT(day FROM month) = 1),
    CONSTRAINT ticket_outsource_payout_reports_total_check CHECK (total >= 0)
);
COMMENT ON TABLE ticket_outsource_payout_reports IS 'What helpers outside are paid for each month, named by its first day';
CREATE INDEX ticket_outsource_payout_reports_created_by_idx ON ticket_outsource_payout_reports (created_by);

CREATE TABLE ticket_outsources (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket_id bigint NOT NULL UNIQUE REFERENCES tickets (id) ON DELETE CASCADE,
    payout_report_id bigint REFERENCES ticket_outsource_payout_reports (id),
    amount numeric(18, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ticket_outsources_amount_check CHECK (amount > 0)
);
COMMENT ON TABLE ticket_outsources IS 'Tickets given to a helper outside, and for how much';
CREATE INDEX ticket_outsources_payout_report_id_idx ON ticket_outsources (payout_report_id);

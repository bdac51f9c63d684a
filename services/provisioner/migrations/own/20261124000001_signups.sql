-- Signups under way. A row is made before anything else is, and deleted when the company is open or nothing of it is
-- left: what is in no row was not made by a signup, and is never dropped by one.
CREATE TABLE attempts (
    request_id text PRIMARY KEY,
    company_id uuid NOT NULL,
    database_id uuid NOT NULL,
    locked_by text NOT NULL,
    lease_until timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE attempts IS 'Signups under way, each leased to the copy that works on it';
CREATE INDEX attempts_lease_until_idx ON attempts (lease_until);

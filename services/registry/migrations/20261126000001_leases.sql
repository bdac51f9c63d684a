-- Gateway copies and their shares of the clusters' connection budgets.

CREATE TABLE gateway_leases (
    id uuid PRIMARY KEY,
    instance text NOT NULL,
    beat bigint NOT NULL,
    longest_call interval NOT NULL,
    created_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL
);
COMMENT ON TABLE gateway_leases IS 'Running gateways, one row for each process; whoever changes anything here or in gateway_shares holds the advisory lock of heartbeats';

CREATE TABLE gateway_shares (
    lease_id uuid NOT NULL REFERENCES gateway_leases (id) ON DELETE CASCADE,
    cluster text NOT NULL,
    share integer NOT NULL,
    held integer NOT NULL,
    demand double precision NOT NULL,
    PRIMARY KEY (lease_id, cluster),
    CONSTRAINT gateway_shares_held_check CHECK (0 <= share AND share <= held)
);
COMMENT ON TABLE gateway_shares IS 'held is what a copy may have open, whether it was told its share or not. The cluster is no reference: connections outlive its removal, and heartbeats do not wait for signups that hold its row';

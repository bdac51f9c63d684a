-- Connections that a gateway's calls will likely want soon, beside those in use: see registry/internal/allocate. Copies of the
-- registry that know nothing of them leave the default.
ALTER TABLE gateway_shares ADD COLUMN warm double precision NOT NULL DEFAULT 0;

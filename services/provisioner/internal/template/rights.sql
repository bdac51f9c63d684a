-- What tenants' group may do with whatever migrations make, now and later. Default privileges are kept in the database
-- and so are cloned with it; they hold for what the administrator makes.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO tenantry_tenant;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO tenantry_tenant;
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO tenantry_tenant;
ALTER DEFAULT PRIVILEGES GRANT USAGE, SELECT ON SEQUENCES TO tenantry_tenant;

-- The history of migrations is no tenant's.
DO $$
DECLARE s text;
BEGIN
    FOR s IN SELECT nspname FROM pg_namespace WHERE nspname = 'atlas_schema_revisions' OR nspname LIKE 'atlas\_plugin\_%' LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC, tenantry_tenant', s);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM PUBLIC, tenantry_tenant', s);
    END LOOP;
END $$;

-- Nor are the lists of databases, roles and activity, which PostgreSQL shows everyone, and large objects, which any role
-- may fill the disk with. What drivers and ORMs read (pg_class, pg_type, pg_attribute, information_schema, …) stays.
-- An administrator who is no superuser may not do this; then these lists stay visible, and nothing else changes.
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'pg_catalog' AND c.relkind IN ('r', 'v') AND (c.relname IN ('pg_database', 'pg_roles', 'pg_user', 'pg_group', 'pg_shadow',
            'pg_auth_members', 'pg_db_role_setting', 'pg_shdescription', 'pg_shdepend', 'pg_shseclabel', 'pg_tablespace', 'pg_locks',
            'pg_prepared_xacts', 'pg_replication_slots', 'pg_replication_origin', 'pg_replication_origin_status', 'pg_subscription',
            'pg_hba_file_rules', 'pg_ident_file_mappings', 'pg_file_settings', 'pg_config', 'pg_user_mappings')
            OR c.relname LIKE 'pg\_stat\_%' AND c.relname NOT LIKE 'pg\_stat\_%\_tables' AND c.relname NOT LIKE 'pg\_stat\_%\_indexes'
            AND c.relname NOT LIKE 'pg\_stat\_%\_functions') LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', r.name);
    END LOOP;
    FOR r IN SELECT p.oid::regprocedure AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pg_catalog' AND (p.proname LIKE 'lo\_%' OR p.proname IN ('loread', 'lowrite', 'pg_stat_get_activity',
            'pg_stat_get_backend_idset', 'pg_stat_get_wal_senders', 'pg_stat_get_progress_info', 'pg_lock_status',
            'pg_database_size', 'pg_tablespace_size', 'pg_tablespace_databases', 'pg_prepared_xact', 'pg_get_replication_slots',
            'pg_show_all_file_settings', 'pg_hba_file_rules', 'pg_ident_file_mappings', 'pg_config', 'pg_cancel_backend', 'pg_terminate_backend')) LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', r.name);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the administrator may not hide the server''s catalogues';
END $$;

-- A company that FAILED or is DELETED keeps the name of the cluster that it was on, and holds nothing there: such a cluster can be removed.
ALTER TABLE tenant_databases DROP CONSTRAINT tenant_databases_cluster_fkey;
COMMENT ON COLUMN tenant_databases.cluster IS 'Name of the cluster; one that the database of a FAILED or DELETED company was on may be gone';

CREATE FUNCTION keep_clusters_in_use() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tenant_databases d JOIN companies c ON c.id = d.company_id
        WHERE d.cluster = OLD.name AND c.state NOT IN ('FAILED', 'DELETED')) THEN
        RAISE foreign_key_violation USING CONSTRAINT = 'tenant_databases_cluster_fkey', MESSAGE = 'the cluster still holds tenants';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION keep_clusters_in_use IS 'The reference that only companies with a database have. Whoever places one there has changed the cluster''s count, so a removal waits for it and then sees it';
CREATE TRIGGER keep_clusters_in_use BEFORE DELETE ON clusters FOR EACH ROW EXECUTE FUNCTION keep_clusters_in_use();

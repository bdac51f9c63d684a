-- A company in MAINTENANCE is somebody's, for a while: then it is ACTIVE again, whatever became of them.
ALTER TABLE companies ADD COLUMN maintenance_holder text;
ALTER TABLE companies ADD COLUMN maintenance_until timestamptz;
ALTER TABLE companies ADD CONSTRAINT companies_maintenance_check
    CHECK ((state = 'MAINTENANCE') = (maintenance_until IS NOT NULL) AND (maintenance_until IS NULL) = (maintenance_holder IS NULL));
CREATE INDEX companies_maintenance_until_idx ON companies (maintenance_until) WHERE maintenance_until IS NOT NULL;

-- A company that is being deleted keeps the state it had, and can have it back until its database may go.
ALTER TABLE companies ADD COLUMN purge_at timestamptz;
ALTER TABLE companies ADD COLUMN state_before text;
ALTER TABLE companies ADD CONSTRAINT companies_deleting_check CHECK ((state = 'DELETING') = (purge_at IS NOT NULL) AND (purge_at IS NULL) = (state_before IS NULL));

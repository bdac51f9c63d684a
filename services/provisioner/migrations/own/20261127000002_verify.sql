-- A rollout that looks into every database, whatever its mark says.
ALTER TABLE rollouts ADD COLUMN verify boolean NOT NULL DEFAULT false;

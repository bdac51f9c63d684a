-- Whether each tenant's calls are held while its database changes.
ALTER TABLE rollouts ADD COLUMN pause boolean NOT NULL DEFAULT false;

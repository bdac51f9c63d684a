-- A template whose name nothing leads to any more, since it is now made in another way, can only be found by what is recorded.
CREATE TABLE templates (
    cluster text NOT NULL,
    name text NOT NULL,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (cluster, name)
);
COMMENT ON TABLE templates IS 'Databases that companies'' are cloned from, recorded before they are made; used_at is when a copy that runs last said that it clones from it';

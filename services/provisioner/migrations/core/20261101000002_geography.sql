-- Where things are. A cluster here is a group of mini-grids; it has nothing to do with database servers.

CREATE TABLE clusters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    manager_id uuid REFERENCES users (id) ON DELETE SET NULL,
    country_id bigint REFERENCES countries (id),
    boundary jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT clusters_name_check CHECK (name <> ''),
    CONSTRAINT clusters_boundary_check CHECK (boundary IS NULL OR COALESCE(boundary ->> 'type', '') IN ('Polygon', 'MultiPolygon'))
);
COMMENT ON TABLE clusters IS 'Groups of mini-grids under one manager, with their boundary as GeoJSON';
CREATE INDEX clusters_manager_id_idx ON clusters (manager_id);
CREATE INDEX clusters_country_id_idx ON clusters (country_id);

CREATE TABLE mini_grids (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id bigint NOT NULL REFERENCES clusters (id),
    name text NOT NULL,
    capacity_kw numeric(12, 3),
    storage_kwh numeric(12, 3),
    commissioned_on date,
    data_stream boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mini_grids_cluster_id_name_key UNIQUE (cluster_id, name),
    CONSTRAINT mini_grids_name_check CHECK (name <> ''),
    CONSTRAINT mini_grids_capacity_kw_check CHECK (capacity_kw > 0),
    CONSTRAINT mini_grids_storage_kwh_check CHECK (storage_kwh >= 0)
);
COMMENT ON TABLE mini_grids IS 'Power plants with the network they feed';

CREATE TABLE cities (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mini_grid_id bigint REFERENCES mini_grids (id),
    country_id bigint REFERENCES countries (id),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cities_mini_grid_id_name_key UNIQUE (mini_grid_id, name),
    CONSTRAINT cities_name_check CHECK (name <> '')
);
COMMENT ON TABLE cities IS 'Villages and towns; those without a mini-grid are served by solar home systems alone';
CREATE INDEX cities_name_idx ON cities (lower(name));
CREATE INDEX cities_country_id_idx ON cities (country_id);

CREATE TABLE addresses (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint REFERENCES people (id) ON DELETE CASCADE,
    user_id uuid REFERENCES users (id) ON DELETE CASCADE,
    city_id bigint REFERENCES cities (id),
    street text,
    phone text,
    email text,
    is_primary boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT addresses_owner_check CHECK (num_nonnulls(person_id, user_id) = 1),
    CONSTRAINT addresses_phone_check CHECK (phone ~ '^[+]?[0-9 ()-]{4,32}$'),
    CONSTRAINT addresses_email_check CHECK (position('@' IN email) > 1)
);
COMMENT ON TABLE addresses IS 'How to reach a person or a user: payments and messages are matched by its phone';
CREATE UNIQUE INDEX addresses_person_id_primary_key ON addresses (person_id) WHERE is_primary;
CREATE UNIQUE INDEX addresses_user_id_primary_key ON addresses (user_id) WHERE is_primary;
CREATE INDEX addresses_phone_idx ON addresses (phone);
CREATE INDEX addresses_person_id_idx ON addresses (person_id);
CREATE INDEX addresses_user_id_idx ON addresses (user_id);
CREATE INDEX addresses_city_id_idx ON addresses (city_id);

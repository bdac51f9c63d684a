-- What stands at the customer. A row of devices is what all have in common; its meter, solar home system or e-bike row
-- has the rest, and the kind in both keeps a device from being two things.

CREATE TABLE manufacturers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    api_name text,
    website text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT manufacturers_name_kind_key UNIQUE (name, kind),
    CONSTRAINT manufacturers_name_check CHECK (name <> ''),
    CONSTRAINT manufacturers_kind_check CHECK (kind IN ('meter', 'solar_home_system', 'e_bike'))
);
COMMENT ON TABLE manufacturers IS 'Makers of devices; api_name is the plugin that talks to the maker';

CREATE TABLE connection_types (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT connection_types_name_check CHECK (name <> '')
);
COMMENT ON TABLE connection_types IS 'Uses of a connection, such as household, business or public';

CREATE TABLE sub_connection_types (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_type_id bigint NOT NULL REFERENCES connection_types (id) ON DELETE CASCADE,
    tariff_id bigint REFERENCES tariffs (id),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sub_connection_types_connection_type_id_name_key UNIQUE (connection_type_id, name),
    CONSTRAINT sub_connection_types_name_check CHECK (name <> '')
);
COMMENT ON TABLE sub_connection_types IS 'Finer uses of a connection, each with the tariff it usually gets';
CREATE INDEX sub_connection_types_tariff_id_idx ON sub_connection_types (tariff_id);

CREATE TABLE connection_groups (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT connection_groups_name_check CHECK (name <> '')
);
COMMENT ON TABLE connection_groups IS 'Groups of customers that targets are set for';

CREATE TABLE devices (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    serial text NOT NULL,
    manufacturer_id bigint NOT NULL REFERENCES manufacturers (id),
    person_id bigint REFERENCES people (id),
    city_id bigint REFERENCES cities (id),
    state text NOT NULL DEFAULT 'in_stock',
    installed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT devices_serial_key UNIQUE (serial),
    CONSTRAINT devices_id_kind_key UNIQUE (id, kind),
    CONSTRAINT devices_kind_check CHECK (kind IN ('meter', 'solar_home_system', 'e_bike')),
    CONSTRAINT devices_serial_check CHECK (serial <> ''),
    CONSTRAINT devices_state_check CHECK (state IN ('in_stock', 'in_use', 'blocked', 'in_repair', 'retired')),
    CONSTRAINT devices_in_use_check CHECK (state <> 'in_use' OR person_id IS NOT NULL)
);
COMMENT ON TABLE devices IS 'Everything with a serial number; payments are matched by it, so it is unique whatever the maker';
CREATE INDEX devices_state_idx ON devices (state, kind);
CREATE INDEX devices_manufacturer_id_idx ON devices (manufacturer_id);
CREATE INDEX devices_person_id_idx ON devices (person_id);
CREATE INDEX devices_city_id_idx ON devices (city_id);

CREATE TABLE meter_types (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    phases smallint NOT NULL DEFAULT 1,
    max_current_a numeric(8, 2) NOT NULL,
    is_online boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT meter_types_phases_max_current_a_is_online_key UNIQUE (phases, max_current_a, is_online),
    CONSTRAINT meter_types_phases_check CHECK (phases IN (1, 3)),
    CONSTRAINT meter_types_max_current_a_check CHECK (max_current_a > 0)
);
COMMENT ON TABLE meter_types IS 'Kinds of meter by phases, current and whether they can be reached';

CREATE TABLE meters (
    device_id bigint PRIMARY KEY,
    kind text NOT NULL DEFAULT 'meter',
    meter_type_id bigint NOT NULL REFERENCES meter_types (id),
    tariff_id bigint REFERENCES tariffs (id),
    connection_type_id bigint REFERENCES connection_types (id),
    sub_connection_type_id bigint REFERENCES sub_connection_types (id),
    connection_group_id bigint REFERENCES connection_groups (id),
    max_current_a numeric(8, 2),
    sts_key_revision smallint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT meters_device_fkey FOREIGN KEY (device_id, kind) REFERENCES devices (id, kind) ON DELETE CASCADE,
    CONSTRAINT meters_kind_check CHECK (kind = 'meter'),
    CONSTRAINT meters_max_current_a_check CHECK (max_current_a > 0),
    CONSTRAINT meters_sts_key_revision_check CHECK (sts_key_revision BETWEEN 1 AND 9)
);
COMMENT ON TABLE meters IS 'Devices that are electricity meters, with the tariff they charge';
CREATE INDEX meters_meter_type_id_idx ON meters (meter_type_id);
CREATE INDEX meters_tariff_id_idx ON meters (tariff_id);
CREATE INDEX meters_connection_type_id_idx ON meters (connection_type_id);
CREATE INDEX meters_sub_connection_type_id_idx ON meters (sub_connection_type_id);
CREATE INDEX meters_connection_group_id_idx ON meters (connection_group_id);

CREATE TABLE meter_consumptions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter_id bigint NOT NULL REFERENCES meters (device_id) ON DELETE CASCADE,
    reading_date date NOT NULL,
    total_kwh numeric(16, 4) NOT NULL,
    consumed_kwh numeric(16, 4) NOT NULL,
    credit_kwh numeric(16, 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT meter_consumptions_meter_id_reading_date_key UNIQUE (meter_id, reading_date),
    CONSTRAINT meter_consumptions_total_kwh_check CHECK (total_kwh >= 0),
    CONSTRAINT meter_consumptions_consumed_kwh_check CHECK (consumed_kwh BETWEEN 0 AND total_kwh)
);
COMMENT ON TABLE meter_consumptions IS 'A reading of a meter for each day';
CREATE INDEX meter_consumptions_reading_date_idx ON meter_consumptions (reading_date);

CREATE TABLE solar_home_systems (
    device_id bigint PRIMARY KEY,
    kind text NOT NULL DEFAULT 'solar_home_system',
    appliance_id bigint NOT NULL REFERENCES appliances (id),
    panel_w numeric(10, 2),
    battery_wh numeric(12, 2),
    unlocked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT solar_home_systems_device_fkey FOREIGN KEY (device_id, kind) REFERENCES devices (id, kind) ON DELETE CASCADE,
    CONSTRAINT solar_home_systems_kind_check CHECK (kind = 'solar_home_system'),
    CONSTRAINT solar_home_systems_panel_w_check CHECK (panel_w > 0),
    CONSTRAINT solar_home_systems_battery_wh_check CHECK (battery_wh > 0)
);
COMMENT ON TABLE solar_home_systems IS 'Devices that are solar home systems; one that is paid off is unlocked for good';
CREATE INDEX solar_home_systems_appliance_id_idx ON solar_home_systems (appliance_id);

CREATE TABLE e_bikes (
    device_id bigint PRIMARY KEY,
    kind text NOT NULL DEFAULT 'e_bike',
    appliance_id bigint NOT NULL REFERENCES appliances (id),
    mileage_km numeric(12, 2) NOT NULL DEFAULT 0,
    battery_percent numeric(5, 2),
    is_locked boolean NOT NULL DEFAULT true,
    reported_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT e_bikes_device_fkey FOREIGN KEY (device_id, kind) REFERENCES devices (id, kind) ON DELETE CASCADE,
    CONSTRAINT e_bikes_kind_check CHECK (kind = 'e_bike'),
    CONSTRAINT e_bikes_mileage_km_check CHECK (mileage_km >= 0),
    CONSTRAINT e_bikes_battery_percent_check CHECK (battery_percent BETWEEN 0 AND 100)
);
COMMENT ON TABLE e_bikes IS 'Devices that are electric bicycles for rent';
CREATE INDEX e_bikes_appliance_id_idx ON e_bikes (appliance_id);

CREATE TABLE geographical_informations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id bigint UNIQUE REFERENCES clusters (id) ON DELETE CASCADE,
    mini_grid_id bigint UNIQUE REFERENCES mini_grids (id) ON DELETE CASCADE,
    city_id bigint UNIQUE REFERENCES cities (id) ON DELETE CASCADE,
    address_id bigint UNIQUE REFERENCES addresses (id) ON DELETE CASCADE,
    device_id bigint UNIQUE REFERENCES devices (id) ON DELETE CASCADE,
    latitude numeric(9, 6) NOT NULL,
    longitude numeric(9, 6) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT geographical_informations_owner_check
        CHECK (num_nonnulls(cluster_id, mini_grid_id, city_id, address_id, device_id) = 1),
    CONSTRAINT geographical_informations_latitude_check CHECK (latitude BETWEEN -90 AND 90),
    CONSTRAINT geographical_informations_longitude_check CHECK (longitude BETWEEN -180 AND 180)
);
COMMENT ON TABLE geographical_informations IS 'The point on the map of exactly one thing';
CREATE INDEX geographical_informations_latitude_longitude_idx ON geographical_informations (latitude, longitude);

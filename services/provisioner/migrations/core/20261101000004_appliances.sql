-- What is sold besides energy. The sales themselves come later, as they may concern a device.

CREATE TABLE appliance_types (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    is_device boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT appliance_types_name_check CHECK (name <> '')
);
COMMENT ON TABLE appliance_types IS 'Kinds of goods: some are devices with a serial number, others are not';

CREATE TABLE appliances (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    appliance_type_id bigint NOT NULL REFERENCES appliance_types (id),
    name text NOT NULL,
    price numeric(18, 4) NOT NULL,
    down_payment numeric(18, 4) NOT NULL DEFAULT 0,
    instalments integer NOT NULL DEFAULT 0,
    retired_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT appliances_appliance_type_id_name_key UNIQUE (appliance_type_id, name),
    CONSTRAINT appliances_name_check CHECK (name <> ''),
    CONSTRAINT appliances_price_check CHECK (price >= 0),
    CONSTRAINT appliances_down_payment_check CHECK (down_payment BETWEEN 0 AND price),
    CONSTRAINT appliances_instalments_check CHECK (instalments >= 0)
);
COMMENT ON TABLE appliances IS 'Goods on offer with the terms they are usually sold at';

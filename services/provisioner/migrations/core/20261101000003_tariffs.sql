-- What a kilowatt-hour costs, for whom and when.

CREATE TABLE tariffs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price_per_kwh numeric(18, 6) NOT NULL,
    total_price_per_kwh numeric(18, 6) NOT NULL,
    currency_code char(3) NOT NULL,
    minimum_purchase numeric(18, 4) NOT NULL DEFAULT 0,
    factor smallint NOT NULL DEFAULT 1,
    retired_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tariffs_name_check CHECK (name <> ''),
    CONSTRAINT tariffs_price_per_kwh_check CHECK (price_per_kwh >= 0),
    CONSTRAINT tariffs_total_price_per_kwh_check CHECK (total_price_per_kwh >= price_per_kwh),
    CONSTRAINT tariffs_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$'),
    CONSTRAINT tariffs_minimum_purchase_check CHECK (minimum_purchase >= 0),
    CONSTRAINT tariffs_factor_check CHECK (factor > 0)
);
COMMENT ON TABLE tariffs IS 'Prices of energy; the total is the price with all components on it';
CREATE UNIQUE INDEX tariffs_name_key ON tariffs (name) WHERE retired_at IS NULL;

CREATE TABLE tariff_pricing_components (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tariff_id bigint NOT NULL REFERENCES tariffs (id) ON DELETE CASCADE,
    name text NOT NULL,
    price_per_kwh numeric(18, 6) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tariff_pricing_components_tariff_id_name_key UNIQUE (tariff_id, name),
    CONSTRAINT tariff_pricing_components_price_per_kwh_check CHECK (price_per_kwh >= 0)
);
COMMENT ON TABLE tariff_pricing_components IS 'Levies and surcharges on a kilowatt-hour of a tariff';

CREATE TABLE time_of_usages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tariff_id bigint NOT NULL REFERENCES tariffs (id) ON DELETE CASCADE,
    starts_at time NOT NULL,
    ends_at time NOT NULL,
    percent_of_price numeric(7, 3) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT time_of_usages_tariff_id_starts_at_key UNIQUE (tariff_id, starts_at),
    CONSTRAINT time_of_usages_ends_at_check CHECK (ends_at > starts_at),
    CONSTRAINT time_of_usages_percent_of_price_check CHECK (percent_of_price > 0)
);
COMMENT ON TABLE time_of_usages IS 'Hours of the day at which a tariff costs a percentage of its price';

CREATE TABLE social_tariffs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tariff_id bigint NOT NULL UNIQUE REFERENCES tariffs (id) ON DELETE CASCADE,
    daily_allowance_kwh numeric(12, 4) NOT NULL,
    price_per_kwh numeric(18, 6) NOT NULL,
    initial_energy_budget_kwh numeric(12, 4) NOT NULL DEFAULT 0,
    maximum_stacked_kwh numeric(12, 4) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT social_tariffs_daily_allowance_kwh_check CHECK (daily_allowance_kwh > 0),
    CONSTRAINT social_tariffs_price_per_kwh_check CHECK (price_per_kwh >= 0),
    CONSTRAINT social_tariffs_initial_energy_budget_kwh_check CHECK (initial_energy_budget_kwh >= 0),
    CONSTRAINT social_tariffs_maximum_stacked_kwh_check CHECK (maximum_stacked_kwh >= daily_allowance_kwh)
);
COMMENT ON TABLE social_tariffs IS 'A cheaper first part of each day for a tariff, which stacks up to a maximum when unused';

CREATE TABLE access_rates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tariff_id bigint NOT NULL UNIQUE REFERENCES tariffs (id) ON DELETE CASCADE,
    amount numeric(18, 4) NOT NULL,
    period_days integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT access_rates_amount_check CHECK (amount > 0),
    CONSTRAINT access_rates_period_days_check CHECK (period_days > 0)
);
COMMENT ON TABLE access_rates IS 'What it costs to be connected at all, for each period of a tariff';

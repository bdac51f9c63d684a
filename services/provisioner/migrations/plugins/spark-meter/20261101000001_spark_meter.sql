-- Smart meters by SparkMeter, which are reached through the company's sites at Spark and hold their credit there.

CREATE TABLE spark_meter_credentials (
    id smallint PRIMARY KEY DEFAULT 1,
    api_url text NOT NULL,
    api_key text NOT NULL,
    api_secret_encrypted bytea NOT NULL,
    checked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spark_meter_credentials_id_check CHECK (id = 1),
    CONSTRAINT spark_meter_credentials_api_url_check CHECK (api_url ~ '^https?://')
);
COMMENT ON TABLE spark_meter_credentials IS 'The company''s account at Spark; its secret is encrypted by the application';

CREATE TABLE spark_meter_sites (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mini_grid_id bigint NOT NULL UNIQUE REFERENCES mini_grids (id) ON DELETE CASCADE,
    site_id uuid NOT NULL UNIQUE,
    thundercloud_url text NOT NULL,
    thundercloud_token_encrypted bytea NOT NULL,
    is_online boolean NOT NULL DEFAULT false,
    synced_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spark_meter_sites_thundercloud_url_check CHECK (thundercloud_url ~ '^https?://')
);
COMMENT ON TABLE spark_meter_sites IS 'Which mini-grid is which site at Spark';

CREATE TABLE spark_meter_tariffs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tariff_id bigint NOT NULL REFERENCES tariffs (id) ON DELETE CASCADE,
    spark_meter_site_id bigint NOT NULL REFERENCES spark_meter_sites (id) ON DELETE CASCADE,
    spark_id uuid NOT NULL UNIQUE,
    plan_price numeric(18, 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spark_meter_tariffs_tariff_id_spark_meter_site_id_key UNIQUE (tariff_id, spark_meter_site_id),
    CONSTRAINT spark_meter_tariffs_plan_price_check CHECK (plan_price >= 0)
);
COMMENT ON TABLE spark_meter_tariffs IS 'Which tariff is which at a site of Spark''s';
CREATE INDEX spark_meter_tariffs_spark_meter_site_id_idx ON spark_meter_tariffs (spark_meter_site_id);

CREATE TABLE spark_meter_customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    meter_id bigint NOT NULL UNIQUE REFERENCES meters (device_id) ON DELETE CASCADE,
    spark_meter_site_id bigint NOT NULL REFERENCES spark_meter_sites (id) ON DELETE CASCADE,
    spark_id uuid NOT NULL UNIQUE,
    credit_balance numeric(18, 4) NOT NULL DEFAULT 0,
    low_balance_limit numeric(18, 4) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spark_meter_customers_low_balance_limit_check CHECK (low_balance_limit >= 0)
);
COMMENT ON TABLE spark_meter_customers IS 'Which customer and meter are which at Spark, and the credit left there';
CREATE INDEX spark_meter_customers_person_id_idx ON spark_meter_customers (person_id);
CREATE INDEX spark_meter_customers_spark_meter_site_id_idx ON spark_meter_customers (spark_meter_site_id);

CREATE TABLE spark_meter_transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id bigint UNIQUE REFERENCES transactions (id),
    spark_meter_customer_id bigint NOT NULL REFERENCES spark_meter_customers (id),
    external_id text NOT NULL UNIQUE,
    spark_id uuid UNIQUE,
    amount numeric(18, 4) NOT NULL,
    state text NOT NULL DEFAULT 'requested',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT spark_meter_transactions_amount_check CHECK (amount > 0),
    CONSTRAINT spark_meter_transactions_state_check
        CHECK (state IN ('requested', 'pending', 'processed', 'reversed', 'failed'))
);
COMMENT ON TABLE spark_meter_transactions IS 'Credit given at Spark for a payment';
CREATE INDEX spark_meter_transactions_open_idx
    ON spark_meter_transactions (created_at) WHERE state IN ('requested', 'pending');
CREATE INDEX spark_meter_transactions_spark_meter_customer_id_idx ON spark_meter_transactions (spark_meter_customer_id);

package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// village is a small company's data, for constraints to hold against.
const village = `
	INSERT INTO users (id, name, email) VALUES ('01900000-0000-7000-8000-000000000001', 'Ana', 'ana@example.com');
	INSERT INTO people (name) VALUES ('Juma'), ('Neema');
	INSERT INTO manufacturers (name, kind) VALUES ('Calin', 'meter'), ('Sun King', 'solar_home_system');
	INSERT INTO appliance_types (name, is_device) VALUES ('Solar home system', true);
	INSERT INTO appliances (appliance_type_id, name, price) VALUES (1, 'Home 40', 100);
	INSERT INTO meter_types (name, max_current_a) VALUES ('Single phase', 10);
	INSERT INTO devices (kind, serial, manufacturer_id, person_id, state) VALUES
		('meter', '47001', 1, 1, 'in_use'), ('solar_home_system', 'SK1', 2, 2, 'in_use');
	INSERT INTO meters (device_id, meter_type_id) VALUES (1, 1);
	INSERT INTO solar_home_systems (device_id, appliance_id) VALUES (2, 1);
	INSERT INTO transactions (channel, purpose, amount, currency_code, sender, message) VALUES
		('third_party', 'energy', 500, 'KES', '254700000001', '47001'),
		('third_party', 'energy', 500, 'KES', '254700000001', '47001');
	INSERT INTO third_party_transactions (transaction_id, provider, external_id) VALUES (1, 'mpesa', 'QK1');
	INSERT INTO tokens (transaction_id, device_id, token, kind, amount, unit) VALUES (1, 1, '5111', 'energy', 5.1, 'kWh');
	INSERT INTO agent_commissions (name) VALUES ('Standard');
	INSERT INTO agents (person_id, agent_commission_id) VALUES (2, 1);
	INSERT INTO ticket_categories (name) VALUES ('Outage');`

func TestSchemaRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	conn := connect(t, tenant(t, "core"))
	_, err := conn.Exec(t.Context(), village)
	require.NoError(t, err)
	for name, test := range map[string]struct{ sql, constraint string }{
		"one e-mail, two users": {
			`INSERT INTO users (id, name, email) VALUES (gen_random_uuid(), 'Ana', 'ANA@example.com')`, "users_email_key"},
		"one serial, two devices": {
			`INSERT INTO devices (kind, serial, manufacturer_id) VALUES ('meter', 'SK1', 1)`, "devices_serial_key"},
		"a solar home system that is a meter, too": {
			`INSERT INTO meters (device_id, meter_type_id) VALUES (2, 1)`, "meters_device_fkey"},
		"a device in use by nobody": {
			`INSERT INTO devices (kind, serial, manufacturer_id, state) VALUES ('meter', '2', 1, 'in_use')`, "devices_in_use_check"},
		"a payment of nothing": {
			`INSERT INTO transactions (channel, purpose, amount, currency_code, sender, message)
			VALUES ('cash', 'energy', 0, 'KES', 's', 'm')`, "transactions_amount_check"},
		"a provider's payment counted twice": {
			`INSERT INTO third_party_transactions (transaction_id, provider, external_id) VALUES (2, 'mpesa', 'QK1')`,
			"third_party_transactions_provider_external_id_key"},
		"a part of a payment for two things": {
			`INSERT INTO payment_histories (transaction_id, person_id, token_id, loan_id, amount) VALUES (1, 1, 1, 1, 5)`,
			"payment_histories_paid_for_check"},
		"a part of a payment for nothing": {
			`INSERT INTO payment_histories (transaction_id, person_id, amount) VALUES (1, 1, 5)`, "payment_histories_paid_for_check"},
		"energy of no amount": {
			`INSERT INTO tokens (device_id, token, kind) VALUES (1, '6', 'energy')`, "tokens_energy_check"},
		"an address of two owners": {
			`INSERT INTO addresses (person_id, user_id) VALUES (1, '01900000-0000-7000-8000-000000000001')`, "addresses_owner_check"},
		"two first addresses": {
			`INSERT INTO addresses (person_id, is_primary) VALUES (1, true), (1, true)`, "addresses_person_id_primary_key"},
		"a point of nothing": {
			`INSERT INTO geographical_informations (latitude, longitude) VALUES (1, 1)`, "geographical_informations_owner_check"},
		"a boundary that is no area": {
			`INSERT INTO clusters (name, boundary) VALUES ('North', '{}')`, "clusters_boundary_check"},
		"a component that lowers a tariff": {
			`INSERT INTO tariffs (name, price_per_kwh, total_price_per_kwh, currency_code) VALUES ('T', 2, 1, 'KES')`,
			"tariffs_total_price_per_kwh_check"},
		"more left to pay than it cost": {
			`WITH sale AS (INSERT INTO appliance_people (appliance_id, person_id, total_cost) VALUES (1, 1, 9) RETURNING id)
			INSERT INTO appliance_rates (appliance_person_id, number, cost, remaining, due_on)
			SELECT id, 1, 9, 10, '2027-01-01' FROM sale`, "appliance_rates_remaining_check"},
		"a receipt that does not add up": {
			`WITH receipt AS (INSERT INTO agent_receipts (agent_id, user_id, amount)
				VALUES (1, '01900000-0000-7000-8000-000000000001', 4) RETURNING id)
			INSERT INTO agent_receipt_details (agent_receipt_id, due, collected, remaining) SELECT id, 9, 4, 6 FROM receipt`,
			"agent_receipt_details_remaining_check"},
		"a ticket closed at no time": {
			`INSERT INTO tickets (ticket_category_id, title, state) VALUES (1, 'Dark', 'closed')`, "tickets_closed_at_check"},
		"two rows of settings": {
			`INSERT INTO map_settings (id) VALUES (2)`, "map_settings_id_check"},
		"a customer who goes and leaves payments": {
			`DELETE FROM people WHERE id = 1`, "devices_person_id_fkey"},
	} {
		_, err := conn.Exec(t.Context(), test.sql)
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, test.constraint, refusal.ConstraintName, "%s: %s", name, refusal.Message)
	}
}

-- What a company's database holds on its first day, besides what its migrations put there. Statements without parameters
-- are the same for all companies, and may be run once for many of them:
-- tenantry:common template
-- The others are run at each signup, with the named parameters @company_id, @company_name, @company_slug, @company_email, @company_phone,
-- @company_address, @country_code, @usage_type, @owner_id, @owner_name and @owner_email. Running it again changes
-- nothing, and it keeps what somebody has changed since.

-- First, because it is what fails, before anything is written, when the database is already another company's: the
-- conflict on company_id is forgiven, and the one on the single row's id is not.
INSERT INTO main_settings
    (company_id, company_name, company_slug, company_email, company_phone, company_address, country_id, usage_type,
     currency_code, site_title)
SELECT
    @company_id::uuid,
    @company_name::text,
    @company_slug::text,
    NULLIF(@company_email::text, ''),
    NULLIF(@company_phone::text, ''),
    NULLIF(@company_address::text, ''),
    country.id,
    NULLIF(@usage_type::text, ''),
    COALESCE(country.currency_code, 'USD'),
    @company_name::text
FROM (SELECT @country_code::text AS code) AS given
LEFT JOIN countries AS country ON country.code = given.code
ON CONFLICT (company_id) DO NOTHING;

INSERT INTO map_settings (id) VALUES (1)
ON CONFLICT (id) DO NOTHING;

INSERT INTO roles (name, title, built_in) VALUES
    ('owner', 'Owner', true),
    ('admin', 'Administrator', true),
    ('financial-manager', 'Financial manager', true),
    ('user', 'User', true)
ON CONFLICT (name, guard_name) DO NOTHING;

INSERT INTO permissions (name, description) VALUES
    ('agents', 'Manage agents, their commissions and their balances'),
    ('assets', 'Manage devices, appliances and tariffs'),
    ('customers', 'Manage customers and their documents'),
    ('exports', 'Export customers, debts and transactions'),
    ('messages', 'Send text messages and change their texts'),
    ('payments', 'See payments and take cash'),
    ('plugins', 'Install and set up plugins'),
    ('refunds', 'Refund and cancel payments'),
    ('reports', 'See reports and revenues'),
    ('roles', 'Manage roles and what they permit'),
    ('settings', 'Change the settings of the company'),
    ('sites', 'Manage clusters, mini-grids and villages'),
    ('targets', 'Set targets'),
    ('tickets', 'Work on tickets'),
    ('users', 'Manage users and the roles they have')
ON CONFLICT (name, guard_name) DO NOTHING;

INSERT INTO role_has_permissions (role_id, permission_id)
SELECT role.id, permission.id
FROM roles AS role
JOIN permissions AS permission ON permission.guard_name = role.guard_name
WHERE role.guard_name = 'api' AND role.built_in AND CASE role.name
    WHEN 'owner' THEN true
    WHEN 'admin' THEN permission.name <> 'roles'
    WHEN 'financial-manager' THEN permission.name IN
        ('agents', 'customers', 'exports', 'payments', 'refunds', 'reports', 'targets', 'tickets')
    WHEN 'user' THEN permission.name IN ('assets', 'customers', 'messages', 'payments', 'tickets')
    ELSE false
END
ON CONFLICT (role_id, permission_id) DO NOTHING;

INSERT INTO users (id, name, email) VALUES (@owner_id::uuid, @owner_name::text, @owner_email::text)
ON CONFLICT (id) DO NOTHING;

INSERT INTO model_has_roles (user_id, role_id)
SELECT @owner_id::uuid, role.id FROM roles AS role WHERE role.name = 'owner' AND role.guard_name = 'api'
ON CONFLICT (user_id, role_id) DO NOTHING;

INSERT INTO ticket_categories (name, color, can_be_outsourced) VALUES
    ('Customer follow-up', '#2E7D32', false),
    ('Installation', '#1565C0', true),
    ('Maintenance', '#EF6C00', true),
    ('Payment issue', '#C62828', false),
    ('Power outage', '#6A1B9A', false)
ON CONFLICT (name) DO NOTHING;

INSERT INTO sms_bodies (reference, title, body, placeholders) VALUES
    ('energy_confirmation', 'Energy bought',
     'Dear [name] [surname], your payment of [amount] for meter [meter] buys [energy] kWh. Token: [token]',
     '{name,surname,amount,meter,energy,token}'),
    ('shs_confirmation', 'Solar home system paid',
     'Dear [name] [surname], your payment of [amount] for [serial] runs it for [days] days. Token: [token]',
     '{name,surname,amount,serial,days,token}'),
    ('instalment_paid', 'Instalment paid',
     'Dear [name] [surname], we received [amount] for [appliance]. You still owe [remaining].',
     '{name,surname,amount,appliance,remaining}'),
    ('instalment_due', 'Instalment due',
     'Dear [name] [surname], [amount] for [appliance] is due on [due_date].',
     '{name,surname,amount,appliance,due_date}'),
    ('instalment_overdue', 'Instalment overdue',
     'Dear [name] [surname], [amount] for [appliance] was due on [due_date]. Please pay it soon.',
     '{name,surname,amount,appliance,due_date}'),
    ('payment_rejected', 'Payment rejected',
     'Dear customer, your payment of [amount] for [serial] could not be used. Please call us.',
     '{amount,serial}'),
    ('resend_unknown', 'Nothing to send again',
     'We know of no payment for [serial].',
     '{serial}')
ON CONFLICT (reference) DO NOTHING;

INSERT INTO sms_resend_information_keys (keyword) VALUES ('resend')
ON CONFLICT (lower(keyword)) DO NOTHING;

INSERT INTO sms_variable_default_values (variable, default_value) VALUES
    ('amount', '1000'),
    ('appliance', 'Radio'),
    ('days', '7'),
    ('due_date', '2027-01-31'),
    ('energy', '5.1'),
    ('meter', '47000268748'),
    ('name', 'Herbert'),
    ('remaining', '4000'),
    ('serial', '47000268748'),
    ('surname', 'Kale'),
    ('token', '5111 3511 1911 1111 1111')
ON CONFLICT (variable) DO NOTHING;

INSERT INTO registration_tail (tag, component, position) VALUES
    ('settings', 'Settings', 1),
    ('cluster', 'Clusters', 2),
    ('mini-grid', 'MiniGrids', 3),
    ('village', 'Villages', 4),
    ('tariff', 'Tariffs', 5)
ON CONFLICT (tag) DO NOTHING;

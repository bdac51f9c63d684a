-- What changes in a database that is a copy of another company's, with the parameters of seed.sql: it becomes the new
-- company's, whose owner can work with it. Running it again changes nothing more.

UPDATE main_settings SET
    company_id = @company_id::uuid,
    company_name = @company_name::text,
    company_slug = @company_slug::text,
    company_email = NULLIF(@company_email::text, ''),
    company_phone = NULLIF(@company_phone::text, ''),
    company_address = NULLIF(@company_address::text, ''),
    site_title = @company_name::text;

INSERT INTO users (id, name, email) VALUES (@owner_id::uuid, @owner_name::text, @owner_email::text)
ON CONFLICT DO NOTHING;

INSERT INTO model_has_roles (user_id, role_id)
SELECT person.id, role.id FROM users AS person JOIN roles AS role ON role.name = 'owner' AND role.guard_name = 'api'
WHERE person.email = @owner_email::text
ON CONFLICT (user_id, role_id) DO NOTHING;

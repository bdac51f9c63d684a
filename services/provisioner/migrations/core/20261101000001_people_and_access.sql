-- Who there is: countries people come from, users of the back office with their roles, and customers.

CREATE TABLE countries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code char(2) NOT NULL UNIQUE,
    name text NOT NULL,
    currency_code char(3),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT countries_code_check CHECK (code ~ '^[A-Z]{2}$'),
    CONSTRAINT countries_currency_code_check CHECK (currency_code ~ '^[A-Z]{3}$')
);
COMMENT ON TABLE countries IS 'Countries by ISO 3166 code, with the currency that is legal tender there';

-- The id comes from where logins are kept, so a person is the same in both places.
CREATE TABLE users (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    phone text,
    locale text NOT NULL DEFAULT 'en',
    state text NOT NULL DEFAULT 'active',
    last_seen_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_name_check CHECK (name <> ''),
    CONSTRAINT users_email_check CHECK (position('@' IN email) > 1),
    CONSTRAINT users_state_check CHECK (state IN ('active', 'disabled'))
);
COMMENT ON TABLE users IS 'Who works with the back office or the agent app; their passwords are not kept here';
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE password_resets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    token_hash bytea NOT NULL UNIQUE,
    requested_from inet,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT password_resets_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT password_resets_expires_at_check CHECK (expires_at > created_at)
);
COMMENT ON TABLE password_resets IS 'Requests for a new password; of the token only its SHA-256 is kept';
CREATE INDEX password_resets_expires_at_idx ON password_resets (expires_at) WHERE used_at IS NULL;
CREATE INDEX password_resets_user_id_idx ON password_resets (user_id);

CREATE TABLE roles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    guard_name text NOT NULL DEFAULT 'api',
    title text NOT NULL,
    built_in boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT roles_name_guard_name_key UNIQUE (name, guard_name),
    CONSTRAINT roles_name_check CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    CONSTRAINT roles_guard_name_check CHECK (guard_name IN ('api', 'agent'))
);
COMMENT ON TABLE roles IS 'Named bundles of permissions; the built-in ones are not for deletion';

CREATE TABLE permissions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    guard_name text NOT NULL DEFAULT 'api',
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT permissions_name_guard_name_key UNIQUE (name, guard_name),
    CONSTRAINT permissions_name_check CHECK (name ~ '^[a-z][a-z-]*([.][a-z-]+)?$'),
    CONSTRAINT permissions_guard_name_check CHECK (guard_name IN ('api', 'agent'))
);
COMMENT ON TABLE permissions IS 'What a role or a user can be allowed to do';

CREATE TABLE role_has_permissions (
    role_id bigint NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    permission_id bigint NOT NULL REFERENCES permissions (id) ON DELETE CASCADE,
    PRIMARY KEY (role_id, permission_id)
);
COMMENT ON TABLE role_has_permissions IS 'Which permissions a role bundles';
CREATE INDEX role_has_permissions_permission_id_idx ON role_has_permissions (permission_id);

CREATE TABLE model_has_roles (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role_id bigint NOT NULL REFERENCES roles (id) ON DELETE CASCADE,
    granted_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, role_id)
);
COMMENT ON TABLE model_has_roles IS 'Which roles a user has; agents have theirs through their user';
CREATE INDEX model_has_roles_role_id_idx ON model_has_roles (role_id);
CREATE INDEX model_has_roles_granted_by_idx ON model_has_roles (granted_by);

CREATE TABLE model_has_permissions (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    permission_id bigint NOT NULL REFERENCES permissions (id) ON DELETE CASCADE,
    granted_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, permission_id)
);
COMMENT ON TABLE model_has_permissions IS 'Permissions a user has besides those of the roles';
CREATE INDEX model_has_permissions_permission_id_idx ON model_has_permissions (permission_id);
CREATE INDEX model_has_permissions_granted_by_idx ON model_has_permissions (granted_by);

CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text,
    name text NOT NULL,
    surname text NOT NULL DEFAULT '',
    birth_date date,
    gender text,
    education text,
    nationality_id bigint REFERENCES countries (id),
    kind text NOT NULL DEFAULT 'customer',
    is_active boolean NOT NULL DEFAULT true,
    external_reference text,
    registered_by uuid REFERENCES users (id) ON DELETE SET NULL,
    additional jsonb NOT NULL DEFAULT '{}',
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT people_name_check CHECK (name <> ''),
    CONSTRAINT people_gender_check CHECK (gender IN ('female', 'male', 'other')),
    CONSTRAINT people_kind_check CHECK (kind IN ('customer', 'agent', 'maintenance', 'outsource')),
    CONSTRAINT people_additional_check CHECK (jsonb_typeof(additional) = 'object')
);
COMMENT ON TABLE people IS 'Customers, and others who stand outside the back office: agents, maintenance, outsourced helpers';
CREATE INDEX people_name_idx ON people (lower(surname), lower(name)) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX people_external_reference_key ON people (external_reference);
CREATE INDEX people_nationality_id_idx ON people (nationality_id);
CREATE INDEX people_registered_by_idx ON people (registered_by);

CREATE TABLE person_documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person_id bigint NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    kind text NOT NULL,
    name text NOT NULL,
    location text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    uploaded_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT person_documents_kind_check CHECK (kind IN ('id_card', 'passport', 'contract', 'photo', 'other')),
    CONSTRAINT person_documents_size_bytes_check CHECK (size_bytes >= 0)
);
COMMENT ON TABLE person_documents IS 'Scans of papers of a person: where each file lies, not its bytes';
CREATE INDEX person_documents_person_id_idx ON person_documents (person_id);
CREATE INDEX person_documents_uploaded_by_idx ON person_documents (uploaded_by);

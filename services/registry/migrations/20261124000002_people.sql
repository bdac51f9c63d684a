-- Who may log in, and what they have logged in with.

CREATE TABLE users (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    email text NOT NULL,
    name text NOT NULL,
    password_hash text,
    roles text[] NOT NULL,
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_email_check CHECK (email = lower(email))
);
COMMENT ON TABLE users IS 'Logins; password_hash is argon2id in PHC format, or null for none yet';
CREATE INDEX users_company_id_idx ON users (company_id, id);

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
COMMENT ON TABLE sessions IS 'One for each login; a family of refresh tokens';
CREATE INDEX sessions_user_id_idx ON sessions (user_id, id DESC);

CREATE TABLE refresh_tokens (
    hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz
);
COMMENT ON TABLE refresh_tokens IS 'SHA-256 of each refresh token; used ones are kept to notice a second use';
CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    company_id uuid NOT NULL REFERENCES companies (id),
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL,
    roles text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_keys_hash_key UNIQUE (hash)
);
COMMENT ON TABLE api_keys IS 'SHA-256 of each API key, and how it begins';
CREATE INDEX api_keys_company_id_idx ON api_keys (company_id, id DESC);

-- Sessions of operators' browsers that were signed out before they ended. A session is nothing but a sealed cookie,
-- so what is kept is which of them are no longer good, until they would have ended by themselves.
CREATE TABLE operator_session_revoked (
    session_id uuid PRIMARY KEY,
    ends_at timestamptz NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE operator_session_revoked IS
    'Sessions of operators'' browsers that were signed out; each row goes after the session''s own end';
COMMENT ON COLUMN operator_session_revoked.session_id IS 'Which session: the id in its cookie';
COMMENT ON COLUMN operator_session_revoked.ends_at IS 'When the session would have ended by itself';
COMMENT ON COLUMN operator_session_revoked.revoked_at IS 'When its operator signed out';

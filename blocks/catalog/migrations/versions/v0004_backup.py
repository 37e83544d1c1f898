"""Backups: what became of each, metadata that stays while one is made, and a catalog that was restored."""

from alembic import op

revision = "0004"
down_revision = "0003"

RESTORED = """
-- From a restore until somebody confirms it: nothing is removed from any store.
ALTER TABLE catalog_identity
    ADD COLUMN frozen_since   timestamptz,
    -- What a restore brought to light as nobody's is an orphan from then on, however old its bytes are.
    ADD COLUMN confirmed_at   timestamptz,
    ADD COLUMN restored_from  text,
    -- Buckets still carry the epoch before the restore: it was killed before it had told them all.
    ADD COLUMN claims_pending boolean NOT NULL DEFAULT false;
"""

EVIDENCE = """
CREATE TABLE backup_checks (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    run     text NOT NULL DEFAULT '',
    backup  text NOT NULL,
    what    text NOT NULL CHECK (what IN ('backup', 'verification', 'drill', 'restore')),
    ok      boolean NOT NULL,
    seconds double precision NOT NULL CHECK (seconds >= 0),
    bytes   bigint NOT NULL DEFAULT 0,
    because text NOT NULL DEFAULT '',
    details jsonb
);
CREATE INDEX backup_checks_by_kind ON backup_checks (what, at);
COMMENT ON TABLE backup_checks IS
    'What was done with backups and how it went. Which backups there are is told by their manifests, never by this table';
"""

RUNNING = """
-- A backup holds this lock from before its snapshot until its copies of the metadata objects are made. It ends with the
-- backup's connection, however that ends.
CREATE FUNCTION backup_is_running() RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (SELECT 1 FROM pg_locks
                    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = 1650549611 AND objid = 1
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
$$;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (RESTORED, EVIDENCE, RUNNING):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

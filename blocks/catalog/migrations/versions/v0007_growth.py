"""Indexes for what was found to read a whole table, or most of one, in a catalog of ten million objects."""

from alembic import op

revision = "0007"
down_revision = "0006"

# Each is told by the statement that needs it, and by what it costs: every index is written to by whoever writes.
INDEXES = """
-- Jobs that are idle for long enough and not old enough were fetched every night, only to be left: with the second
-- condition in the index they are not. As many entries as before, eight bytes longer.
DROP INDEX jobs_to_tier;
CREATE INDEX jobs_to_tier ON jobs (tier, greatest(completed_at, last_accessed_at), completed_at)
    WHERE status = 'completed' AND deleted_at IS NULL;
DROP INDEX jobs_to_compress;
CREATE INDEX jobs_to_compress ON jobs (greatest(completed_at, last_accessed_at), completed_at)
    WHERE status = 'completed' AND deleted_at IS NULL AND compressed_at IS NULL;
-- Backups list them, and a restore goes through them in pages: one object of a job.
CREATE INDEX stored_objects_metadata ON stored_objects (id) WHERE kind = 'metadata';
-- What migrate-storage leaves behind in the trash; empty where all is well.
CREATE INDEX stored_objects_trashed_unsound ON stored_objects (location_id)
    WHERE state = 'trashed' AND trashed_state <> 'live';
-- What is newer than a backup. Rows lie in the order of their time, more or less: a summary of pages is enough, and
-- costs writers next to nothing.
CREATE INDEX jobs_by_time ON jobs USING brin (created_at) WITH (pages_per_range = 8);
CREATE INDEX stored_objects_by_time ON stored_objects USING brin (created_at) WITH (pages_per_range = 8);
-- Jobs of a size, whoever owns them: delete-jobs took most of a minute to add up a million. Written by folds alone.
CREATE INDEX job_totals_by_size ON job_totals (size_bytes);
-- An erasure looks for its job in a month of every customer's lists; written once a night.
CREATE INDEX notable_jobs_by_job ON analytics.notable_jobs (job_id);
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    op.get_bind().exec_driver_sql(INDEXES, execution_options={"no_parameters": True})

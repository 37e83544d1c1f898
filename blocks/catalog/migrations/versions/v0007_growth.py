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

HISTORY = """
-- As before; what it asks of the log and of customers grows with neither.
CREATE OR REPLACE FUNCTION explain_object(p_object text)
RETURNS TABLE (at timestamptz, what text, run text, rule text, api_key text, job_id uuid, object_id uuid,
               before jsonb, after jsonb, bytes bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    uuid_form constant text := '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}';
    named     uuid := substring(p_object FROM '^' || uuid_form || '$')::uuid;
    in_key    uuid := substring(p_object FROM '^(?:[a-z]+|exports/hls)/(' || uuid_form || ')/')::uuid;
    objects   uuid[];
    jobs      uuid[];
BEGIN
    -- Apart from the rest, which would be planned for as many as a whole month of the log could name.
    WITH meant AS (
        SELECT o.id, o.job_id FROM stored_objects o WHERE o.id = named OR o.job_id = named
        UNION
        SELECT o.id, o.job_id FROM stored_objects o WHERE o.job_id = in_key AND o.key = p_object
        UNION
        SELECT l.object_id, l.job_id FROM operation_log l WHERE l.object_id = named OR l.job_id = named
        UNION
        -- A key names its job: the log is searched by that, not by every key it ever held.
        SELECT l.object_id, l.job_id FROM operation_log l
         WHERE l.job_id = in_key AND p_object IN (l.before ->> 'key', l.after ->> 'key')
    )
    SELECT array_agg(DISTINCT m.id), array_agg(DISTINCT m.job_id) INTO objects, jobs FROM meant m;
    RETURN QUERY
    WITH lines AS (
        SELECT l.* FROM operation_log l WHERE l.object_id = ANY (objects)
        UNION
        -- What befell the job befell its objects; what befell another key of it did not, unless the job is meant.
        -- Not by IS NULL, which has an index too: lines without an object are many, of all jobs together.
        SELECT l.* FROM operation_log l
         WHERE l.job_id = ANY (jobs) AND coalesce(l.object_id, l.job_id) = l.job_id
           AND (l.before ->> 'key' IS NULL OR l.before ->> 'key' = p_object OR l.job_id = named)
        UNION
        SELECT l.* FROM operation_log l WHERE l.job_id IS NULL AND l.before ->> 'key' = p_object
    )
    SELECT clock_timestamp(), 'is', ''::text, ''::text, k.label, o.job_id, o.id, NULL::jsonb,
           jsonb_build_object('state', o.state, 'location', c.name, 'key', o.key, 'kind', o.kind, 'name', o.name,
               'codec', o.codec, 'sha256', o.sha256, 'size_bytes', o.size_bytes, 'generation', o.generation,
               'url_expires_at', o.url_expires_at, 'verified_at', o.verified_at, 'job_status', j.status,
               'job_updated_at', j.updated_at, 'created_at', o.created_at, 'hold', j.hold, 'deleted_at', j.deleted_at,
               'purge_after', j.purge_after), o.stored_bytes
      FROM stored_objects o JOIN jobs j ON j.id = o.job_id
      JOIN api_keys k ON k.id = o.api_key_id JOIN locations c ON c.id = o.location_id
     WHERE o.id = ANY (objects)
    UNION ALL
    SELECT l.at, l.operation, l.run, l.rule, (SELECT k.label FROM api_keys k WHERE k.id = l.api_key_id), l.job_id,
           l.object_id, l.before, l.after, l.bytes
      FROM lines l
    ORDER BY 1 DESC;
END $$;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (INDEXES, HISTORY):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

"""Trash and its undo, sweeps that find what is due by an index, requests for approval, and an object's history."""

from alembic import op

revision = "0002"
down_revision = "0001"

TRASH = """
-- What a trashed object was, so that undo brings back exactly that.
ALTER TABLE stored_objects ADD COLUMN trashed_state text CHECK (trashed_state IN ('live', 'missing', 'corrupt'));
ALTER TABLE stored_objects ADD CONSTRAINT stored_objects_trashed
    CHECK ((state = 'trashed') = (trashed_state IS NOT NULL));
-- A legal erasure that was begun: whoever meets the job finishes it.
ALTER TABLE jobs ADD COLUMN erase_requested_at timestamptz;
"""

# Each finds what is due without looking at what is not: a sweep costs what it has to do, however large the catalog.
INDEXES = """
CREATE INDEX stored_objects_released ON stored_objects (location_id, id) WHERE state = 'purging';
CREATE INDEX stored_objects_pending ON stored_objects (created_at) WHERE state = 'pending';
CREATE INDEX stored_objects_to_verify ON stored_objects (location_id, verified_at NULLS FIRST) WHERE state = 'live';
CREATE INDEX stored_objects_by_hash ON stored_objects (sha256);
CREATE INDEX stored_objects_unsound ON stored_objects (location_id, id) WHERE state IN ('missing', 'corrupt');
CREATE INDEX jobs_unfinished ON jobs (updated_at)
    WHERE status IN ('uploading', 'queued', 'processing', 'transcoding') AND deleted_at IS NULL;
CREATE INDEX jobs_failed ON jobs (updated_at) WHERE status = 'failed' AND deleted_at IS NULL;
CREATE INDEX jobs_trashed ON jobs (purge_after) WHERE deleted_at IS NOT NULL AND status <> 'cleaned_up';
CREATE INDEX jobs_to_erase ON jobs (erase_requested_at) WHERE erase_requested_at IS NOT NULL;
CREATE INDEX reservations_by_end ON reservations (expires_at);
CREATE INDEX uploads_open ON uploads (expires_at) WHERE status = 'open';
CREATE INDEX uploads_by_job ON uploads (job_id);
CREATE INDEX uploads_by_result ON uploads (result_job_id);
CREATE INDEX relocations_left ON relocations (created_at) WHERE state IN ('open', 'swapped', 'failed');
"""

APPROVALS = """
-- One row for each run that asked whether it may go on; a newer plan of the same kind for the same place ends it.
CREATE TABLE approvals (
    run         uuid PRIMARY KEY,
    operation   text NOT NULL,
    scope       text NOT NULL,
    objects     bigint NOT NULL CHECK (objects >= 0),
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    state       text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'approved', 'denied', 'overtaken')),
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at     timestamptz NOT NULL
);
CREATE INDEX approvals_open ON approvals (operation, scope) WHERE state = 'asked';
"""

HISTORY = """
-- Objects without a job, such as a form's blob under temp/, are found by their key; there are few.
CREATE INDEX operation_log_by_key ON operation_log ((before ->> 'key')) WHERE job_id IS NULL;

-- All that is known of an object, by its id, its key (present or past) or its job's id; newest first.
CREATE FUNCTION explain_object(p_object text)
RETURNS TABLE (at timestamptz, what text, run text, rule text, api_key text, job_id uuid, object_id uuid,
               before jsonb, after jsonb, bytes bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    uuid_form constant text := '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}';
    named     uuid := substring(p_object FROM '^' || uuid_form || '$')::uuid;
    in_key    uuid := substring(p_object FROM '^(?:[a-z]+|exports/hls)/(' || uuid_form || ')/')::uuid;
BEGIN
    RETURN QUERY
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
    ), lines AS (
        SELECT l.* FROM operation_log l WHERE l.object_id IN (SELECT m.id FROM meant m)
        UNION
        -- What befell the job befell its objects; what befell another key of it did not, unless the job is meant.
        SELECT l.* FROM operation_log l
         WHERE l.job_id IN (SELECT m.job_id FROM meant m) AND l.object_id IS NULL
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
     WHERE o.id IN (SELECT m.id FROM meant m)
    UNION ALL
    SELECT l.at, l.operation, l.run, l.rule, k.label, l.job_id, l.object_id, l.before, l.after, l.bytes
      FROM lines l LEFT JOIN api_keys k ON k.id = l.api_key_id
    ORDER BY 1 DESC;
END $$;

-- A month that was forgotten takes its lines over from where they went meanwhile.
CREATE OR REPLACE FUNCTION create_log_partitions(p_from date, p_months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month  date;
    part   text;
    begins timestamptz;
    ends   timestamptz;
BEGIN
    FOR i IN 0 .. p_months - 1 LOOP
        month := (date_trunc('month', p_from) + make_interval(months => i))::date;
        part := 'operation_log_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(format('%I', part)) IS NOT NULL;
        begins := month::timestamp AT TIME ZONE 'UTC';
        ends := (month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
        LOCK TABLE operation_log IN SHARE UPDATE EXCLUSIVE MODE;
        LOCK TABLE operation_log_default IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('CREATE TABLE %I (LIKE operation_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format('WITH moved AS (DELETE FROM operation_log_default WHERE at >= %L AND at < %L RETURNING *) '
                       'INSERT INTO %I SELECT * FROM moved', begins, ends, part);
        EXECUTE format('ALTER TABLE operation_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       part, begins, ends);
    END LOOP;
END $$;

CREATE FUNCTION drop_log_partitions(p_before date) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    part    record;
    dropped text[] := '{}';
BEGIN
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'operation_log'::regclass AND c.relname ~ '^operation_log_[0-9]{4}_[0-9]{2}$'
           -- A month goes when its last day is before the date.
           AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= p_before
    LOOP
        EXECUTE format('DROP TABLE %I', part.relname);
        dropped := dropped || part.relname::text;
    END LOOP;
    RETURN dropped;
END $$;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (TRASH, INDEXES, APPROVALS, HISTORY):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

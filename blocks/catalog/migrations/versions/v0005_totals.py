"""Totals that are kept as things change, videos that came again, and what runs found."""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = """
-- What each statement changed, appended by the trigger that counts. Appending makes nobody wait; whoever reads totals
-- folds these into them first. Without that, a night's figures would have to look at every object there is.
CREATE TABLE storage_changes (
    api_key_id   bigint NOT NULL,
    job_id       uuid   NOT NULL,
    kind         text   NOT NULL,
    location_id  bigint NOT NULL,
    codec        text   NOT NULL,
    state        text   NOT NULL,
    objects      bigint NOT NULL,
    size_bytes   bigint NOT NULL,
    stored_bytes bigint NOT NULL
);
-- From where videos were brought, appended as well: `source` is a digest of the path, the URL or the form.
CREATE TABLE source_hits (
    job_id uuid NOT NULL,
    source uuid NOT NULL
);
CREATE TABLE storage_totals (
    api_key_id   bigint NOT NULL,
    kind         text   NOT NULL,
    location_id  bigint NOT NULL,
    codec        text   NOT NULL,
    state        text   NOT NULL,
    objects      bigint NOT NULL,
    size_bytes   bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    PRIMARY KEY (api_key_id, kind, location_id, codec, state)
);
-- Of what counts against quotas. The indexes are those of a customer's largest, coldest and never read jobs; they are
-- here, and not on jobs, so that no URL has to maintain them.
CREATE TABLE job_totals (
    job_id       uuid PRIMARY KEY,
    api_key_id   bigint NOT NULL,
    objects      bigint NOT NULL,
    size_bytes   bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    completed_at timestamptz,
    read_at      timestamptz
);
CREATE INDEX job_totals_largest ON job_totals (api_key_id, size_bytes DESC, job_id);
CREATE INDEX job_totals_coldest ON job_totals (api_key_id, greatest(completed_at, read_at), job_id)
    WHERE completed_at IS NOT NULL;
CREATE INDEX job_totals_never_read ON job_totals (api_key_id, size_bytes DESC, job_id)
    WHERE completed_at IS NOT NULL AND read_at IS NULL;
-- The same jobs by the day (UTC) they came in, and by the day they were asked for last, infinity where never.
CREATE TABLE age_totals (
    api_key_id   bigint NOT NULL,
    since        text   NOT NULL CHECK (since IN ('created', 'read')),
    day          date   NOT NULL,
    jobs         bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    PRIMARY KEY (api_key_id, since, day)
);
-- A nightly run of the same folder is no copy: each source of a job counts once, and all but the first as a duplicate.
CREATE TABLE job_sources (
    job_id uuid NOT NULL,
    source uuid NOT NULL,
    PRIMARY KEY (job_id, source)
);
CREATE TABLE job_duplicates (
    job_id uuid   PRIMARY KEY,
    times  bigint NOT NULL CHECK (times > 0)
);
-- Hashes that more than one job was seen to have: candidates, to be looked at by whoever asks.
CREATE TABLE shared_sources (
    sha256 text PRIMARY KEY
);
COMMENT ON TABLE storage_changes IS 'Changes of what is stored since the last fold';
COMMENT ON TABLE source_hits IS 'From where videos were brought since the last fold';
COMMENT ON TABLE job_sources IS 'From where each video was brought, since this is kept';
COMMENT ON TABLE storage_totals IS 'What is stored by key, kind, location, codec and state, up to the last fold';
COMMENT ON TABLE job_totals IS 'What counts against quotas by job, up to the last fold';
COMMENT ON TABLE age_totals IS 'The same by the days jobs came in and were read last, up to the last fold';
COMMENT ON TABLE job_duplicates IS 'From how many other places each video was brought again, up to the last fold';
COMMENT ON TABLE shared_sources IS 'Hashes of videos that several jobs may have';
"""

COUNTERS = """
-- As before (invariant 1), and one pass for both: the changes by job are appended, the key's counter is their sum.
CREATE OR REPLACE FUNCTION count_stored_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    keys   bigint[];
    deltas bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        WITH appended AS (
            INSERT INTO storage_changes
            SELECT api_key_id, job_id, kind, location_id, codec, state, count(*), sum(size_bytes), sum(stored_bytes)
              FROM new_rows WHERE state IN ('live', 'missing', 'corrupt', 'trashed') GROUP BY 1, 2, 3, 4, 5, 6
            RETURNING api_key_id, state, size_bytes
        ) SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, sum(size_bytes)::bigint AS delta FROM appended
             WHERE state <> 'trashed' GROUP BY api_key_id HAVING sum(size_bytes) <> 0) AS d;
    ELSIF TG_OP = 'DELETE' THEN
        WITH appended AS (
            INSERT INTO storage_changes
            SELECT api_key_id, job_id, kind, location_id, codec, state, -count(*), -sum(size_bytes), -sum(stored_bytes)
              FROM old_rows WHERE state IN ('live', 'missing', 'corrupt', 'trashed') GROUP BY 1, 2, 3, 4, 5, 6
            RETURNING api_key_id, state, size_bytes
        ) SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, sum(size_bytes)::bigint AS delta FROM appended
             WHERE state <> 'trashed' GROUP BY api_key_id HAVING sum(size_bytes) <> 0) AS d;
    ELSE
        WITH appended AS (
            INSERT INTO storage_changes
            SELECT api_key_id, job_id, kind, location_id, codec, state, sum(n), sum(size), sum(stored) FROM (
                SELECT api_key_id, job_id, kind, location_id, codec, state, 1 AS n, size_bytes AS size,
                       stored_bytes AS stored
                  FROM new_rows WHERE state IN ('live', 'missing', 'corrupt', 'trashed')
                UNION ALL
                SELECT api_key_id, job_id, kind, location_id, codec, state, -1, -size_bytes, -stored_bytes
                  FROM old_rows WHERE state IN ('live', 'missing', 'corrupt', 'trashed')) AS both_sides
             GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0 OR sum(size) <> 0 OR sum(stored) <> 0
            RETURNING api_key_id, state, size_bytes
        ) SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, sum(size_bytes)::bigint AS delta FROM appended
             WHERE state <> 'trashed' GROUP BY api_key_id HAVING sum(size_bytes) <> 0) AS d;
    END IF;
    IF keys IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM api_keys WHERE id = ANY (keys) ORDER BY id FOR NO KEY UPDATE;
    UPDATE api_keys SET storage_used_bytes = storage_used_bytes + d.delta
      FROM unnest(keys, deltas) AS d (id, delta) WHERE api_keys.id = d.id;
    RETURN NULL;
END $$;
"""

TOTALS = """
-- Brings the totals up to this statement's snapshot; costs what has changed. p_read_since: jobs that were completed or
-- asked for since then are looked at too (no trigger notes that: a URL should not pay for it); null leaves them.
-- One at a time: two would each take half of a change.
CREATE FUNCTION fold_storage_changes(p_read_since timestamptz DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    folded    bigint;
    read_jobs uuid[];
BEGIN
    LOCK TABLE storage_totals IN SHARE ROW EXCLUSIVE MODE;
    -- Apart from the rest, which would be planned for a third of all jobs.
    read_jobs := ARRAY(SELECT id FROM jobs
                        WHERE tier IN ('hot', 'warm', 'cold')
                          AND greatest(completed_at, last_accessed_at) >= p_read_since
                          AND status = 'completed' AND deleted_at IS NULL);
    WITH taken AS (
        DELETE FROM storage_changes RETURNING *
    ), hits AS (
        DELETE FROM source_hits RETURNING *
    ), sources AS (
        -- Of a job that was erased meanwhile nothing is kept.
        INSERT INTO job_sources SELECT DISTINCT h.job_id, h.source FROM hits h JOIN jobs j ON j.id = h.job_id
        ON CONFLICT DO NOTHING RETURNING job_id
    ), by_kind AS (
        INSERT INTO storage_totals AS t
        SELECT api_key_id, kind, location_id, codec, state, sum(objects), sum(size_bytes), sum(stored_bytes)
          FROM taken GROUP BY 1, 2, 3, 4, 5
        HAVING sum(objects) <> 0 OR sum(size_bytes) <> 0 OR sum(stored_bytes) <> 0
        ON CONFLICT (api_key_id, kind, location_id, codec, state) DO UPDATE
           SET objects = t.objects + excluded.objects, size_bytes = t.size_bytes + excluded.size_bytes,
               stored_bytes = t.stored_bytes + excluded.stored_bytes
    ), brought AS (
        INSERT INTO job_duplicates AS d
        SELECT n.job_id, n.times FROM (
            -- The first source of a job is where it came from.
            SELECT s.job_id, count(*) - CASE WHEN EXISTS (SELECT FROM job_sources b WHERE b.job_id = s.job_id)
                                             THEN 0 ELSE 1 END AS times
              FROM sources s GROUP BY s.job_id) n
         WHERE n.times > 0
        ON CONFLICT (job_id) DO UPDATE SET times = d.times + excluded.times
    ), changed AS (
        SELECT job_id, min(api_key_id) AS api_key_id, sum(objects) AS objects, sum(size_bytes) AS size_bytes,
               sum(stored_bytes) AS stored_bytes
          FROM taken WHERE state <> 'trashed' GROUP BY job_id
    ), touched AS (
        SELECT job_id FROM changed
        UNION
        SELECT unnest(read_jobs)
    ), fresh AS MATERIALIZED (
        SELECT t.job_id, coalesce(o.api_key_id, c.api_key_id) AS api_key_id,
               coalesce(o.objects, 0) + coalesce(c.objects, 0) AS objects,
               coalesce(o.size_bytes, 0) + coalesce(c.size_bytes, 0) AS size_bytes,
               coalesce(o.stored_bytes, 0) + coalesce(c.stored_bytes, 0) AS stored_bytes,
               j.created_at, j.completed_at, j.last_accessed_at AS read_at, j.source_file_hash,
               o.objects IS NOT NULL AS known, o.stored_bytes AS old_stored_bytes, o.created_at AS old_created_at,
               o.read_at AS old_read_at
          FROM touched t
          LEFT JOIN job_totals o ON o.job_id = t.job_id
          LEFT JOIN changed c ON c.job_id = t.job_id
          LEFT JOIN jobs j ON j.id = t.job_id
    ), gone AS (
        DELETE FROM job_totals o USING fresh f WHERE o.job_id = f.job_id AND f.objects = 0
    ), written AS (
        INSERT INTO job_totals
        SELECT job_id, api_key_id, objects, size_bytes, stored_bytes, created_at, completed_at, read_at
          FROM fresh WHERE objects <> 0
        ON CONFLICT (job_id) DO UPDATE
           SET objects = excluded.objects, size_bytes = excluded.size_bytes, stored_bytes = excluded.stored_bytes,
               completed_at = excluded.completed_at, read_at = excluded.read_at
    ), aged AS (
        INSERT INTO age_totals AS a
        SELECT api_key_id, since, day, sum(jobs), sum(stored_bytes) FROM (
            SELECT f.api_key_id, s.since, s.day, 1 AS jobs, f.stored_bytes
              FROM fresh f, LATERAL (VALUES ('created', (f.created_at AT TIME ZONE 'UTC')::date),
                   ('read', coalesce((f.read_at AT TIME ZONE 'UTC')::date, 'infinity'))) AS s (since, day)
             WHERE f.objects <> 0
            UNION ALL
            SELECT f.api_key_id, s.since, s.day, -1, -f.old_stored_bytes
              FROM fresh f, LATERAL (VALUES ('created', (f.old_created_at AT TIME ZONE 'UTC')::date),
                   ('read', coalesce((f.old_read_at AT TIME ZONE 'UTC')::date, 'infinity'))) AS s (since, day)
             WHERE f.known) AS both_sides
         GROUP BY 1, 2, 3 HAVING sum(jobs) <> 0 OR sum(stored_bytes) <> 0
        ON CONFLICT (api_key_id, since, day) DO UPDATE
           SET jobs = a.jobs + excluded.jobs, stored_bytes = a.stored_bytes + excluded.stored_bytes
    ), shared AS (
        INSERT INTO shared_sources
        SELECT DISTINCT f.source_file_hash FROM fresh f
         WHERE f.objects <> 0 AND f.source_file_hash IS NOT NULL
           AND EXISTS (SELECT FROM stored_objects o WHERE o.sha256 = f.source_file_hash AND o.job_id <> f.job_id
                          AND o.kind = 'original')
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) INTO folded FROM taken;
    -- Small tables, by customers and not by objects.
    DELETE FROM storage_totals WHERE objects = 0 AND size_bytes = 0 AND stored_bytes = 0;
    DELETE FROM age_totals WHERE jobs = 0 AND stored_bytes = 0;
    RETURN folded;
END $$;

-- Totals from the objects themselves: for a catalog that had none, and for whoever switched the triggers off.
CREATE FUNCTION recount_storage() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE storage_totals IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE stored_objects IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM storage_changes;
    DELETE FROM storage_totals;
    DELETE FROM job_totals;
    DELETE FROM age_totals;
    DELETE FROM shared_sources;
    INSERT INTO storage_changes
    SELECT api_key_id, job_id, kind, location_id, codec, state, count(*), sum(size_bytes), sum(stored_bytes)
      FROM stored_objects WHERE state IN ('live', 'missing', 'corrupt', 'trashed') GROUP BY 1, 2, 3, 4, 5, 6;
    PERFORM fold_storage_changes();
END $$;
SELECT recount_storage();
"""

FINDINGS = """
-- What a run found and did not only repair: drift, rules that lag behind, bytes that are corrupt.
CREATE TABLE findings (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    run        text   NOT NULL,
    operation  text   NOT NULL,
    location   text   NOT NULL,
    finding    text   NOT NULL,
    objects    bigint NOT NULL CHECK (objects >= 0),
    size_bytes bigint NOT NULL DEFAULT 0,
    oldest_at  timestamptz
);
CREATE INDEX findings_newest ON findings (operation, location, at);
COMMENT ON TABLE findings IS
    'What runs found: one row for each kind of finding, and one named none where a run found nothing';
-- The log of one day is found without reading its month.
CREATE INDEX operation_log_by_time ON operation_log USING brin (at) WITH (pages_per_range = 32);
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (TABLES, COUNTERS, TOTALS, FINDINGS):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

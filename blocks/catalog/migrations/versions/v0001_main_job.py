"""The main job: customers, jobs, objects, reservations, uploads, intents, the log, and what keeps them exact."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE catalog_identity (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    catalog_id uuid    NOT NULL DEFAULT gen_random_uuid(),
    epoch      integer NOT NULL DEFAULT 1 CHECK (epoch > 0)
);
INSERT INTO catalog_identity DEFAULT VALUES;

-- Half-filled pages: every admission rewrites its key's row, and a rewrite within the page touches no index.
CREATE TABLE api_keys (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    label                  text NOT NULL CONSTRAINT api_keys_label UNIQUE,
    key_hash               text NOT NULL CONSTRAINT api_keys_hash UNIQUE CHECK (key_hash ~ '^[0-9a-f]{64}$'),
    storage_quota_bytes    bigint CHECK (storage_quota_bytes >= 0),
    storage_used_bytes     bigint NOT NULL DEFAULT 0 CHECK (storage_used_bytes >= 0),
    storage_reserved_bytes bigint NOT NULL DEFAULT 0 CHECK (storage_reserved_bytes >= 0),
    created_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at            timestamptz
) WITH (fillfactor = 50);

CREATE TABLE jobs (
    id               uuid PRIMARY KEY,
    api_key_id       bigint NOT NULL REFERENCES api_keys (id),
    status           text NOT NULL CHECK (status IN
                     ('uploading','queued','processing','transcoding','completed','failed','cleaned_up')),
    filename         text NOT NULL,
    source_file_hash text CHECK (source_file_hash ~ '^[0-9a-f]{64}$'),
    reprocess        boolean NOT NULL DEFAULT false,
    error_message    text,
    hold             text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at     timestamptz,
    last_accessed_at timestamptz,
    deleted_at       timestamptz,
    purge_after      timestamptz,
    CONSTRAINT jobs_owner UNIQUE (id, api_key_id)
);
-- Invariant 3: one job for one video of one customer, as long as that job can still be handed out.
CREATE UNIQUE INDEX jobs_one_per_source ON jobs (api_key_id, source_file_hash)
    WHERE source_file_hash IS NOT NULL AND NOT reprocess AND deleted_at IS NULL
      AND status NOT IN ('failed', 'cleaned_up');
CREATE INDEX jobs_by_key ON jobs (api_key_id, created_at);

CREATE TABLE locations (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                text NOT NULL CONSTRAINT locations_name UNIQUE,
    store               text NOT NULL,
    bucket              text NOT NULL,
    prefix              text NOT NULL DEFAULT '',
    storage_class       text NOT NULL DEFAULT '',
    tier                text NOT NULL DEFAULT 'hot' CHECK (tier IN ('hot','warm','cold')),
    price_per_gib_month numeric CHECK (price_per_gib_month >= 0),
    needs_restore       boolean NOT NULL DEFAULT false,
    capabilities        jsonb,
    probed_at           timestamptz,
    CONSTRAINT locations_place UNIQUE (store, bucket, prefix, storage_class)
);

CREATE TABLE stored_objects (
    id             uuid PRIMARY KEY,
    job_id         uuid NOT NULL,
    api_key_id     bigint NOT NULL,
    kind           text NOT NULL CHECK (kind IN
                   ('original','video_360p','video_720p','audio','transcript_txt','transcript_srt','transcript_vtt',
                    'transcript_json','hls_360p','hls_720p','metadata','upload')),
    name           text NOT NULL,
    location_id    bigint NOT NULL REFERENCES locations (id),
    key            text NOT NULL,
    size_bytes     bigint NOT NULL CHECK (size_bytes >= 0),
    stored_bytes   bigint NOT NULL CHECK (stored_bytes >= 0),
    sha256         text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    codec          text NOT NULL DEFAULT 'identity' CHECK (codec IN ('identity','zstd')),
    etag           text,
    state          text NOT NULL DEFAULT 'pending' CHECK (state IN
                   ('pending','live','trashed','purging','missing','corrupt')),
    generation     bigint NOT NULL DEFAULT 1,
    url_expires_at timestamptz,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at    timestamptz,
    relocated_at   timestamptz,
    CONSTRAINT stored_objects_owner FOREIGN KEY (job_id, api_key_id) REFERENCES jobs (id, api_key_id),
    CONSTRAINT stored_objects_key UNIQUE (location_id, key)
);
-- A released row keeps its key until the bytes are gone, and leaves its name to the next attempt.
CREATE UNIQUE INDEX stored_objects_name ON stored_objects (job_id, name) WHERE state <> 'purging';
CREATE INDEX stored_objects_by_job ON stored_objects (job_id);

CREATE TABLE reservations (
    id         uuid PRIMARY KEY,
    api_key_id bigint NOT NULL REFERENCES api_keys (id),
    job_id     uuid,
    bytes      bigint NOT NULL CHECK (bytes >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX reservations_by_key ON reservations (api_key_id, expires_at);
CREATE INDEX reservations_by_job ON reservations (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE uploads (
    id               uuid PRIMARY KEY,
    api_key_id       bigint NOT NULL REFERENCES api_keys (id),
    job_id           uuid REFERENCES jobs (id),
    location_id      bigint NOT NULL REFERENCES locations (id),
    key              text NOT NULL,
    filename         text NOT NULL,
    size_bytes       bigint NOT NULL CHECK (size_bytes > 0),
    status           text NOT NULL DEFAULT 'open' CHECK (status IN ('open','completed','failed')),
    result_job_id    uuid,
    result_object_id uuid,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at       timestamptz NOT NULL,
    CONSTRAINT uploads_key UNIQUE (location_id, key)
);

CREATE TABLE relocations (
    id              uuid PRIMARY KEY,
    object_id       uuid NOT NULL,
    generation      bigint NOT NULL,
    operation       text NOT NULL,
    location_id     bigint NOT NULL REFERENCES locations (id),
    key             text NOT NULL,
    codec           text NOT NULL DEFAULT 'identity' CHECK (codec IN ('identity','zstd')),
    state           text NOT NULL DEFAULT 'open' CHECK (state IN ('open','swapped','done','failed')),
    old_location_id bigint REFERENCES locations (id),
    old_key         text,
    release_after   timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relocations_key UNIQUE (location_id, key)
);
CREATE INDEX relocations_unfinished ON relocations (object_id) WHERE state IN ('open', 'swapped');

CREATE TABLE operation_log (
    id         bigint GENERATED ALWAYS AS IDENTITY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    run        text NOT NULL,
    operation  text NOT NULL,
    rule       text NOT NULL DEFAULT '',
    api_key_id bigint,
    job_id     uuid,
    object_id  uuid,
    before     jsonb,
    after      jsonb,
    bytes      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX operation_log_by_object ON operation_log (object_id, at);
CREATE INDEX operation_log_by_job ON operation_log (job_id, at);
-- Catches what no month was made for, so that a forgotten month never stops the platform.
CREATE TABLE operation_log_default PARTITION OF operation_log DEFAULT;
"""

COUNTERS = """
-- Invariant 1: after every statement, whoever wrote, a key's counter is the sum of its objects. Keys are locked in
-- id order, so that two writers of the same keys queue up and never wait for each other; a delta of zero locks none.
-- NO KEY UPDATE: a plain UPDATE lock would wait for every transaction that only inserts a job of the key.
CREATE FUNCTION count_stored_bytes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    keys   bigint[];
    deltas bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, sum(size_bytes)::bigint AS delta FROM new_rows
             WHERE state IN ('live', 'missing', 'corrupt') GROUP BY api_key_id HAVING sum(size_bytes) <> 0) AS d;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, -sum(size_bytes)::bigint AS delta FROM old_rows
             WHERE state IN ('live', 'missing', 'corrupt') GROUP BY api_key_id HAVING sum(size_bytes) <> 0) AS d;
    ELSE
        SELECT array_agg(api_key_id), array_agg(delta) INTO keys, deltas FROM (
            SELECT api_key_id, sum(change)::bigint AS delta FROM (
                SELECT api_key_id, size_bytes AS change FROM new_rows WHERE state IN ('live', 'missing', 'corrupt')
                UNION ALL
                SELECT api_key_id, -size_bytes FROM old_rows WHERE state IN ('live', 'missing', 'corrupt')) AS both_sides
             GROUP BY api_key_id HAVING sum(change) <> 0) AS d;
    END IF;
    IF keys IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM api_keys WHERE id = ANY (keys) ORDER BY id FOR NO KEY UPDATE;
    UPDATE api_keys SET storage_used_bytes = storage_used_bytes + d.delta
      FROM unnest(keys, deltas) AS d (id, delta) WHERE api_keys.id = d.id;
    RETURN NULL;
END $$;

CREATE TRIGGER count_inserted AFTER INSERT ON stored_objects
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_stored_bytes();
CREATE TRIGGER count_updated AFTER UPDATE ON stored_objects
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_stored_bytes();
CREATE TRIGGER count_deleted AFTER DELETE ON stored_objects
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION count_stored_bytes();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER owner_is_for_good BEFORE UPDATE OF id, job_id, api_key_id ON stored_objects
    FOR EACH ROW WHEN ((OLD.id, OLD.job_id, OLD.api_key_id) IS DISTINCT FROM (NEW.id, NEW.job_id, NEW.api_key_id))
    EXECUTE FUNCTION refuse_change('an object keeps its job and its owner');
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON stored_objects
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('it would leave the counters behind; delete rows instead');
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON reservations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change('it would leave the counters behind; call settle_reservations');
"""

ADMISSION = """
-- Invariant 2. One statement for a client, so that the key's lock lasts no longer than its commit: lock, drop what has
-- lapsed, take what fits in the order given, one conditional UPDATE. Returns the ids that were admitted.
CREATE FUNCTION reserve_storage(p_key bigint, p_ids uuid[], p_jobs uuid[], p_bytes bigint[], p_lifetimes interval[])
RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    owner    api_keys;
    lapsed   bigint;
    wanted   bigint := 0;
    admitted uuid[] := '{}';
    now_is   timestamptz;
BEGIN
    SELECT * INTO owner FROM api_keys WHERE id = p_key FOR NO KEY UPDATE;
    IF NOT FOUND OR owner.disabled_at IS NOT NULL THEN
        RETURN admitted;
    END IF;
    now_is := clock_timestamp();
    WITH gone AS (DELETE FROM reservations WHERE api_key_id = p_key AND expires_at <= now_is RETURNING bytes)
    SELECT coalesce(sum(bytes), 0) INTO lapsed FROM gone;
    FOR i IN 1 .. cardinality(p_ids) LOOP
        IF p_bytes[i] < 0 THEN
            RAISE EXCEPTION 'a reservation of % bytes is refused', p_bytes[i] USING ERRCODE = 'check_violation';
        END IF;
        IF owner.storage_quota_bytes IS NULL OR owner.storage_used_bytes + owner.storage_reserved_bytes - lapsed
                                                + wanted + p_bytes[i] <= owner.storage_quota_bytes THEN
            wanted := wanted + p_bytes[i];
            admitted := admitted || p_ids[i];
        END IF;
    END LOOP;
    UPDATE api_keys SET storage_reserved_bytes = storage_reserved_bytes - lapsed + wanted
     WHERE id = p_key AND (wanted = 0 OR storage_quota_bytes IS NULL
           OR storage_used_bytes + storage_reserved_bytes - lapsed + wanted <= storage_quota_bytes);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the counters of key % moved under its lock', p_key;
    END IF;
    INSERT INTO reservations (id, api_key_id, job_id, bytes, created_at, expires_at)
    SELECT r.id, p_key, r.job, r.bytes, now_is, now_is + r.lifetime
      FROM unnest(p_ids, p_jobs, p_bytes, p_lifetimes) AS r (id, job, bytes, lifetime) WHERE r.id = ANY (admitted);
    RETURN admitted;
END $$;

-- A reservation in a transaction of its own. It need not survive a crash of the server: a lost one is as one that has
-- lapsed, and its commit is admitted again. So nobody waits for the disk while the key's row is locked.
CREATE FUNCTION reserve_storage_now(p_key bigint, p_id uuid, p_job uuid, p_bytes bigint, p_lifetime interval)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN cardinality(reserve_storage(p_key, ARRAY[p_id], ARRAY[p_job], ARRAY[p_bytes], ARRAY[p_lifetime])) = 1;
END $$;

-- The bytes arrived, or never will: keep p_keep bytes of each reservation for p_keep_for more, 0 ends it.
-- Returns the ids that were still there; one that lapsed and was dropped by another admission is not.
CREATE FUNCTION settle_reservations(p_key bigint, p_ids uuid[], p_keep bigint[], p_keep_for interval)
RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    freed bigint;
    found uuid[];
BEGIN
    PERFORM 1 FROM api_keys WHERE id = p_key FOR NO KEY UPDATE;
    WITH wanted AS (
        SELECT r.id, r.bytes AS had, least(w.keep, r.bytes) AS keep
          FROM unnest(p_ids, p_keep) AS w (id, keep) JOIN reservations r ON r.id = w.id AND r.api_key_id = p_key
    ), ended AS (
        DELETE FROM reservations r USING wanted w WHERE r.id = w.id AND w.keep <= 0
    ), kept AS (
        UPDATE reservations r SET bytes = w.keep, expires_at = clock_timestamp() + p_keep_for
          FROM wanted w WHERE r.id = w.id AND w.keep > 0
    )
    SELECT coalesce(sum(had - greatest(keep, 0)), 0), coalesce(array_agg(id), '{}') INTO freed, found FROM wanted;
    UPDATE api_keys SET storage_reserved_bytes = storage_reserved_bytes - freed WHERE id = p_key AND freed <> 0;
    RETURN found;
END $$;

CREATE FUNCTION create_log_partitions(p_from date, p_months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month date;
BEGIN
    FOR i IN 0 .. p_months - 1 LOOP
        month := (date_trunc('month', p_from) + make_interval(months => i))::date;
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF operation_log FOR VALUES FROM (%L) TO (%L)',
            'operation_log_' || to_char(month, 'YYYY_MM'),
            (month::timestamp AT TIME ZONE 'UTC'), ((month + interval '1 month')::timestamp AT TIME ZONE 'UTC'));
    END LOOP;
END $$;
"""

VIEW = """
CREATE VIEW job_outputs AS
SELECT j.id AS job_id, j.api_key_id, j.status, j.filename,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'original')::bigint   AS source_size_bytes,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'video_360p')::bigint AS output_360p_size_bytes,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'video_720p')::bigint AS output_720p_size_bytes,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'audio')::bigint      AS output_audio_size_bytes,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'hls_360p')::bigint   AS segments_360p_size_bytes,
    sum(o.size_bytes) FILTER (WHERE o.kind = 'hls_720p')::bigint   AS segments_720p_size_bytes,
    min(o.key) FILTER (WHERE o.kind = 'original')                  AS source_path,
    min(o.key) FILTER (WHERE o.kind = 'video_360p')                AS output_360p_path,
    min(o.key) FILTER (WHERE o.kind = 'video_720p')                AS output_720p_path,
    min(o.key) FILTER (WHERE o.kind = 'audio')                     AS output_audio_path,
    min(o.key) FILTER (WHERE o.kind = 'hls_360p' AND o.name LIKE '%.m3u8') AS segments_360p_path,
    min(o.key) FILTER (WHERE o.kind = 'hls_720p' AND o.name LIKE '%.m3u8') AS segments_720p_path,
    min(o.key) FILTER (WHERE o.kind = 'transcript_txt')            AS transcript_txt_path,
    min(o.key) FILTER (WHERE o.kind = 'transcript_srt')            AS transcript_srt_path,
    min(o.key) FILTER (WHERE o.kind = 'transcript_vtt')            AS transcript_vtt_path,
    min(o.key) FILTER (WHERE o.kind = 'transcript_json')           AS transcript_json_path,
    min(o.key) FILTER (WHERE o.kind = 'metadata')                  AS metadata_path
FROM jobs j LEFT JOIN stored_objects o ON o.job_id = j.id AND o.state = 'live'
GROUP BY j.id;
COMMENT ON VIEW job_outputs IS 'The platform''s columns: sizes in bytes and keys of the live outputs of each job';
"""


def upgrade() -> None:
    """Create everything; PostgreSQL's DDL is transactional, so half of it never stays."""
    connection = op.get_bind()
    for statements in (TABLES, COUNTERS, ADMISSION, VIEW):
        # The text is PostgreSQL's, with its own per cent signs: no parameters are looked for in it.
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

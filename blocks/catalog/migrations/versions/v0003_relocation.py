"""Tiers, locations that share a bucket or have moved away, and intents in large numbers."""

from alembic import op

revision = "0003"
down_revision = "0002"

LOCATIONS = """
-- Whether customers can reach it: what lies elsewhere is brought back before a URL is made for it.
ALTER TABLE locations ADD COLUMN serves_urls boolean NOT NULL DEFAULT true;
-- Where new files go since everything was migrated; no longer looked after once it is retired.
ALTER TABLE locations ADD COLUMN moved_to bigint REFERENCES locations (id) CHECK (moved_to <> id);
ALTER TABLE locations ADD COLUMN retired_at timestamptz;
"""

JOBS = """
-- As far as tier-jobs has brought a job, and when compress-jobs was through with it. Both start over when the job gets
-- an object or its content back, and keep the nightly flows from looking at what they have dealt with.
ALTER TABLE jobs ADD COLUMN tier text NOT NULL DEFAULT 'hot' CHECK (tier IN ('hot', 'warm', 'cold'));
ALTER TABLE jobs ADD COLUMN compressed_at timestamptz;
CREATE INDEX jobs_to_tier ON jobs (tier, greatest(completed_at, last_accessed_at))
    WHERE status = 'completed' AND deleted_at IS NULL;
CREATE INDEX jobs_to_compress ON jobs (greatest(completed_at, last_accessed_at))
    WHERE status = 'completed' AND deleted_at IS NULL AND compressed_at IS NULL;
"""

INTENTS = """
ALTER TABLE relocations
    ADD COLUMN job_id uuid,
    ADD COLUMN api_key_id bigint,
    ADD COLUMN run text NOT NULL DEFAULT '',
    ADD COLUMN rule text NOT NULL DEFAULT '',
    ADD COLUMN old_stored_bytes bigint;
UPDATE relocations r SET job_id = coalesce(
        (SELECT o.job_id FROM stored_objects o WHERE o.id = r.object_id), split_part(r.key, '/', 2)::uuid),
    api_key_id = (SELECT o.api_key_id FROM stored_objects o WHERE o.id = r.object_id);
ALTER TABLE relocations ALTER COLUMN job_id SET NOT NULL;
CREATE INDEX relocations_by_job ON relocations (job_id) WHERE state <> 'done';
-- Old bytes that may go are found without looking at those that may not yet.
CREATE INDEX relocations_swapped ON relocations (release_after) WHERE state = 'swapped';
CREATE INDEX relocations_old_key ON relocations (old_location_id, old_key) WHERE state = 'swapped';
CREATE INDEX relocations_begun ON relocations (location_id, created_at) WHERE state IN ('open', 'failed');
CREATE INDEX relocations_done ON relocations (created_at) WHERE state = 'done';
DROP INDEX relocations_left;
-- Nobody asks for intents by their object; each index is one more write for each object that is moved.
DROP INDEX relocations_unfinished;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (LOCATIONS, JOBS, INTENTS):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

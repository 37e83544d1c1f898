"""What analysts read: one snapshot a day, in a schema of its own, every column explained where it is."""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = """
CREATE SCHEMA analytics;
COMMENT ON SCHEMA analytics IS
    'One snapshot a day, written by refresh-analytics in one transaction. Sizes are bytes, times are UTC, days are those of the storage time zone, money is in the currency of the Tier Policy.';

CREATE TABLE analytics.snapshots (
    day         date PRIMARY KEY,
    taken_at    timestamptz NOT NULL,
    run         text NOT NULL,
    time_zone   text NOT NULL,
    catalog_id  uuid NOT NULL
);
COMMENT ON TABLE analytics.snapshots IS 'The days there are figures of; all of a day are of the same moment.';
COMMENT ON COLUMN analytics.snapshots.taken_at IS 'The moment that the figures are of.';
COMMENT ON COLUMN analytics.snapshots.run IS 'The flow run that wrote them; manual outside of Prefect.';
COMMENT ON COLUMN analytics.snapshots.time_zone IS 'Where the day begins and ends.';
COMMENT ON COLUMN analytics.snapshots.catalog_id IS 'The catalog they were taken from.';

CREATE TABLE analytics.usage (
    day              date NOT NULL,
    api_key_id       bigint NOT NULL,
    customer         text NOT NULL,
    kind             text NOT NULL,
    tier             text NOT NULL,
    objects          bigint NOT NULL,
    size_bytes       bigint NOT NULL,
    stored_bytes     bigint NOT NULL,
    unsound_objects  bigint NOT NULL,
    trashed_objects  bigint NOT NULL,
    trashed_bytes    bigint NOT NULL,
    monthly_cost     double precision NOT NULL,
    PRIMARY KEY (day, api_key_id, kind, tier)
);
COMMENT ON TABLE analytics.usage IS 'What each customer stores, by kind and tier.';
COMMENT ON COLUMN analytics.usage.kind IS 'original, video_720p, hls_720p, …; an HLS kind is its playlist and its segments.';
COMMENT ON COLUMN analytics.usage.tier IS 'hot, warm or cold: of the location that the bytes lie in.';
COMMENT ON COLUMN analytics.usage.objects IS 'Objects that count against the quota.';
COMMENT ON COLUMN analytics.usage.size_bytes IS 'Their content, which counts against the quota.';
COMMENT ON COLUMN analytics.usage.stored_bytes IS 'The same as stored: less where texts are compressed.';
COMMENT ON COLUMN analytics.usage.unsound_objects IS 'Those of them that are missing or corrupt.';
COMMENT ON COLUMN analytics.usage.trashed_objects IS 'Objects in the trash, which count against no quota.';
COMMENT ON COLUMN analytics.usage.trashed_bytes IS 'Their bytes as stored, which cost as any others.';
COMMENT ON COLUMN analytics.usage.monthly_cost IS 'What stored and trashed bytes cost a month, by their location''s price, or by the Tier Policy''s.';

CREATE TABLE analytics.customers (
    day                   date NOT NULL,
    api_key_id            bigint NOT NULL,
    customer              text NOT NULL,
    disabled              boolean NOT NULL,
    jobs                  bigint NOT NULL,
    used_bytes            bigint NOT NULL,
    reserved_bytes        bigint NOT NULL,
    quota_bytes           bigint,
    free_bytes            bigint,
    used_percent          double precision,
    monthly_cost          double precision NOT NULL,
    history_days          integer NOT NULL,
    growth_bytes_per_day  double precision,
    growth_low            double precision,
    growth_high           double precision,
    days_until_full       double precision,
    days_until_full_low   double precision,
    days_until_full_high  double precision,
    forecast              text NOT NULL,
    PRIMARY KEY (day, api_key_id)
);
COMMENT ON TABLE analytics.customers IS 'Each customer''s quota, its use, its growth, and when it will be full.';
COMMENT ON COLUMN analytics.customers.jobs IS 'Jobs that store something.';
COMMENT ON COLUMN analytics.customers.used_bytes IS 'Bytes that count against the quota; the sum of usage.size_bytes.';
COMMENT ON COLUMN analytics.customers.reserved_bytes IS 'Bytes admitted that have not arrived yet.';
COMMENT ON COLUMN analytics.customers.quota_bytes IS 'The quota; null is no limit.';
COMMENT ON COLUMN analytics.customers.free_bytes IS 'Quota less used and reserved, never below 0; null without a quota.';
COMMENT ON COLUMN analytics.customers.used_percent IS 'Used and reserved, in percent of the quota; 100 of a quota of 0 with anything in it; null without a quota.';
COMMENT ON COLUMN analytics.customers.monthly_cost IS 'The sum of usage.monthly_cost.';
COMMENT ON COLUMN analytics.customers.history_days IS 'Days of history behind the forecast, 91 at most.';
COMMENT ON COLUMN analytics.customers.growth_bytes_per_day IS 'The pace of the last 4 weeks, or since the first bytes: used bytes now less those then, a day; null before 7 days.';
COMMENT ON COLUMN analytics.customers.growth_low IS 'Lower end of the range that about 8 of 10 paces of the next weeks fall into, from how whole weeks differ; null before 3 weeks.';
COMMENT ON COLUMN analytics.customers.growth_high IS 'Upper end of that range.';
COMMENT ON COLUMN analytics.customers.days_until_full IS 'Free bytes over growth; null where it does not grow, or without a quota.';
COMMENT ON COLUMN analytics.customers.days_until_full_low IS 'The same at the upper end of the growth: the earliest.';
COMMENT ON COLUMN analytics.customers.days_until_full_high IS 'The same at its lower end: the latest; null where that may be never.';
COMMENT ON COLUMN analytics.customers.forecast IS 'full, growing, steady, shrinking, no quota, or too little history.';

CREATE TABLE analytics.savings (
    day               date NOT NULL,
    api_key_id        bigint NOT NULL,
    customer          text NOT NULL,
    source            text NOT NULL,
    objects           bigint NOT NULL,
    saved_bytes       bigint NOT NULL,
    saved_per_month   double precision NOT NULL,
    PRIMARY KEY (day, api_key_id, source)
);
COMMENT ON TABLE analytics.savings IS 'What deduplication, compression and tiers save now, and what deduplication across customers would.';
COMMENT ON COLUMN analytics.savings.source IS 'deduplication: videos that came again from elsewhere (another path, URL or form) and were not stored again, as long as the first is there. compression: content less stored bytes. tiers: what hot storage would cost more. wider deduplication: what is not saved, originals that another customer stored before (not told to customers).';
COMMENT ON COLUMN analytics.savings.objects IS 'Objects, or copies that were not stored, that it is about.';
COMMENT ON COLUMN analytics.savings.saved_bytes IS 'Bytes that are not stored for it; 0 for tiers.';
COMMENT ON COLUMN analytics.savings.saved_per_month IS 'Money a month: those bytes at the price of where they would lie.';

CREATE TABLE analytics.notable_jobs (
    day           date NOT NULL,
    list          text NOT NULL,
    api_key_id    bigint NOT NULL,
    rank          integer NOT NULL,
    customer      text NOT NULL,
    job_id        uuid NOT NULL,
    filename      text NOT NULL,
    tier          text NOT NULL,
    objects       bigint NOT NULL,
    size_bytes    bigint NOT NULL,
    stored_bytes  bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    completed_at  timestamptz,
    last_read_at  timestamptz,
    PRIMARY KEY (day, list, api_key_id, rank)
);
COMMENT ON TABLE analytics.notable_jobs IS 'Each customer''s first 25 jobs of each list; kept 31 days.';
COMMENT ON COLUMN analytics.notable_jobs.list IS 'largest: most bytes of content. coldest: completed, and longest without being asked for. never read: completed, never asked for, largest first.';
COMMENT ON COLUMN analytics.notable_jobs.rank IS 'Place in the customer''s list, from 1.';
COMMENT ON COLUMN analytics.notable_jobs.filename IS 'The file name the customer gave.';
COMMENT ON COLUMN analytics.notable_jobs.tier IS 'As far as tier-jobs has brought the job.';
COMMENT ON COLUMN analytics.notable_jobs.last_read_at IS 'When a URL, a download or a duplicate asked for it last; null is never.';

CREATE TABLE analytics.ages (
    day           date NOT NULL,
    api_key_id    bigint NOT NULL,
    customer      text NOT NULL,
    since         text NOT NULL,
    age           text NOT NULL,
    jobs          bigint NOT NULL,
    stored_bytes  bigint NOT NULL,
    PRIMARY KEY (day, api_key_id, since, age)
);
COMMENT ON TABLE analytics.ages IS 'How old the stored bytes are, and how long nobody has asked for them.';
COMMENT ON COLUMN analytics.ages.since IS 'created: since the job came in. read: since somebody asked for it.';
COMMENT ON COLUMN analytics.ages.age IS 'under 7 days, 7 to 30 days, 30 to 90 days, 90 to 180 days, 180 to 365 days, a year or more, never.';
COMMENT ON COLUMN analytics.ages.stored_bytes IS 'Bytes as stored of those jobs.';

-- One customer's year is read without looking at the others'.
CREATE INDEX usage_by_customer ON analytics.usage (api_key_id, day);
CREATE INDEX customers_by_customer ON analytics.customers (api_key_id, day);
CREATE INDEX savings_by_customer ON analytics.savings (api_key_id, day);

CREATE TABLE analytics.operations (
    day         date NOT NULL,
    api_key_id  bigint NOT NULL,
    customer    text NOT NULL,
    operation   text NOT NULL,
    rule        text NOT NULL,
    runs        bigint NOT NULL,
    jobs        bigint NOT NULL,
    objects     bigint NOT NULL,
    bytes       bigint NOT NULL,
    PRIMARY KEY (day, api_key_id, operation, rule)
);
COMMENT ON TABLE analytics.operations IS 'What was done on each day, from the operation log: ingests, deletions, purges, moves. A day is whole once the next has begun.';
COMMENT ON COLUMN analytics.operations.api_key_id IS 'The customer; 0 where an object was nobody''s.';
COMMENT ON COLUMN analytics.operations.operation IS 'ingest, register, upload, trash, release, purge, expire, compress-jobs, tier-jobs, …';
COMMENT ON COLUMN analytics.operations.rule IS 'The policy''s field that asked for it, or empty.';
COMMENT ON COLUMN analytics.operations.runs IS 'Runs that did it, of this customer on this day: they do not add up.';
COMMENT ON COLUMN analytics.operations.jobs IS 'Jobs it was done to, on this day: they do not add up over days.';
COMMENT ON COLUMN analytics.operations.objects IS 'Lines of the log: one for each object.';
COMMENT ON COLUMN analytics.operations.bytes IS 'Bytes as stored of those objects.';

CREATE TABLE analytics.findings (
    day         date NOT NULL,
    operation   text NOT NULL,
    location    text NOT NULL,
    finding     text NOT NULL,
    objects     bigint NOT NULL,
    size_bytes  bigint NOT NULL,
    oldest_at   timestamptz,
    found_at    timestamptz NOT NULL,
    PRIMARY KEY (day, operation, location, finding)
);
COMMENT ON TABLE analytics.findings IS 'Drift, corrupt and missing objects, lifecycle and cleanup lag: what each operation found when it last looked.';
COMMENT ON COLUMN analytics.findings.operation IS 'reconcile-quota: catalog against store. apply-lifecycle: objects a rule should have reached. cleanup: what is due and still there. verify-objects: what was read and is not its content. catalog: objects marked missing or corrupt.';
COMMENT ON COLUMN analytics.findings.finding IS 'What was found; none where it found nothing.';
COMMENT ON COLUMN analytics.findings.size_bytes IS 'Bytes of those objects, as far as they are known.';
COMMENT ON COLUMN analytics.findings.oldest_at IS 'Since when the oldest of them is due, where that is known.';
COMMENT ON COLUMN analytics.findings.found_at IS 'When it looked.';

CREATE TABLE analytics.backups (
    day                   date PRIMARY KEY,
    verified_at           timestamptz,
    hours_since_verified  double precision,
    backup                text NOT NULL,
    bytes                 bigint NOT NULL,
    taken                 bigint NOT NULL,
    failed                bigint NOT NULL,
    drilled_at            timestamptz,
    drill_ok              boolean,
    recovery_seconds      double precision,
    because               text NOT NULL
);
COMMENT ON TABLE analytics.backups IS 'How the backups are: one row a day.';
COMMENT ON COLUMN analytics.backups.verified_at IS 'When a backup was last read back whole.';
COMMENT ON COLUMN analytics.backups.hours_since_verified IS 'What would be lost at most, in hours.';
COMMENT ON COLUMN analytics.backups.backup IS 'That backup''s id.';
COMMENT ON COLUMN analytics.backups.bytes IS 'Its bytes as stored.';
COMMENT ON COLUMN analytics.backups.taken IS 'Backups that were taken within the last 7 days and are good.';
COMMENT ON COLUMN analytics.backups.failed IS 'Those within the last 7 days that failed.';
COMMENT ON COLUMN analytics.backups.drilled_at IS 'When one was last restored for practice.';
COMMENT ON COLUMN analytics.backups.drill_ok IS 'Whether that went well.';
COMMENT ON COLUMN analytics.backups.recovery_seconds IS 'How long it took.';
COMMENT ON COLUMN analytics.backups.because IS 'Why the last drill failed; empty where it did not.';
"""

VIEWS = """
CREATE VIEW analytics.latest_customers AS
SELECT * FROM analytics.customers WHERE day = (SELECT max(day) FROM analytics.snapshots);
COMMENT ON VIEW analytics.latest_customers IS 'customers of the newest day.';

CREATE VIEW analytics.latest_usage AS
SELECT * FROM analytics.usage WHERE day = (SELECT max(day) FROM analytics.snapshots);
COMMENT ON VIEW analytics.latest_usage IS 'usage of the newest day.';

CREATE VIEW analytics.latest_savings AS
SELECT * FROM analytics.savings WHERE day = (SELECT max(day) FROM analytics.snapshots);
COMMENT ON VIEW analytics.latest_savings IS 'savings of the newest day.';

CREATE VIEW analytics.daily AS
SELECT u.day, u.tier, sum(u.objects)::bigint AS objects, sum(u.size_bytes)::bigint AS size_bytes,
       sum(u.stored_bytes)::bigint AS stored_bytes, sum(u.trashed_bytes)::bigint AS trashed_bytes,
       sum(u.monthly_cost) AS monthly_cost
  FROM analytics.usage u GROUP BY u.day, u.tier;
COMMENT ON VIEW analytics.daily IS 'All customers together, by day and tier: what a chart over time wants.';

CREATE VIEW analytics.cleanup_results AS
SELECT day, operation, rule, sum(objects)::bigint AS objects, sum(bytes)::bigint AS bytes
  FROM analytics.operations WHERE operation IN ('release', 'purge', 'expire', 'remove-old-bytes', 'remove-orphan') GROUP BY day, operation, rule;
COMMENT ON VIEW analytics.cleanup_results IS 'What was given up and removed, by day and rule. release: rows whose space was given up, by the rule that asked for it; purge: their bytes are gone; remove-old-bytes: old copies of what was moved, whose content is still stored; the others: bytes that no row named.';
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    connection = op.get_bind()
    for statements in (TABLES, VIEWS):
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

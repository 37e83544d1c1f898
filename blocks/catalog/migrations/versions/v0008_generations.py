"""Generations come from a sequence, so that no restore of a catalog gives one to another version of a row; and holds."""

from alembic import op

revision = "0008"
down_revision = "0007"

GENERATIONS = """
-- A row is made with generation 1; each change gives it the next of all. A restore had to raise every row before, so
-- that what is changed after it is not taken for what was changed in the catalog it replaced; now it sets this.
CREATE SEQUENCE generations;
SELECT setval('generations', 1 + coalesce(max(generation), 1)) FROM stored_objects;
-- Jobs on hold are few, and told apart from those that a night takes: many of them took the place of all others.
CREATE INDEX jobs_on_hold ON jobs (id) WHERE hold IS NOT NULL;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    op.get_bind().exec_driver_sql(GENERATIONS, execution_options={"no_parameters": True})

"""Generations come from a sequence, so that none is ever given to two versions of a row, in any restore of a catalog."""

from alembic import op

revision = "0008"
down_revision = "0007"

GENERATIONS = """
-- A row is made with generation 1; each change gives it the next of all. A restore had to raise every row before, so
-- that what is changed after it is not taken for what was changed in the catalog it replaced; now it sets this.
CREATE SEQUENCE generations;
SELECT setval('generations', 1 + coalesce(max(generation), 1)) FROM stored_objects;
"""


def upgrade() -> None:
    """As the first: all of it or nothing."""
    op.get_bind().exec_driver_sql(GENERATIONS, execution_options={"no_parameters": True})

"""What was released is removed in the order of its keys, so that one request to a store names what lies together."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """The index of the released, in that order."""
    op.execute("DROP INDEX stored_objects_released")
    op.execute("CREATE INDEX stored_objects_released ON stored_objects (location_id, key) WHERE state = 'purging'")

"""Alembic's entry: runs the migrations on the connection that `blocks.catalog.migrating` hands over."""

from alembic import context
from sqlmodel import SQLModel

from blocks.catalog import tables  # noqa: F401 -- fills SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()

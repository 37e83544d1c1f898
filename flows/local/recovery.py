"""A backup that is known to restore: made, restored for real in a drill, and set up beside the catalog in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from sqlalchemy import text

from flows.local.steps import Steps, check

if TYPE_CHECKING:
    # Prefect reads its settings when it is imported: the demo starts its server first.
    from blocks.catalog import CatalogDatabase


class Recovery(Steps):
    """Nothing of it touches the catalog in use."""

    def __init__(self, out: Console, catalog: CatalogDatabase) -> None:
        super().__init__(out)
        self.catalog = catalog

    def run(self) -> None:
        """All steps in order."""
        self.back_up()
        self.drill()
        self.restore_beside()

    def back_up(self) -> None:
        """One night's backup."""
        from flows.backup import backup

        with self.step("back the catalog up, and read the backup back") as say:
            state = backup(return_state=True)
            check(state.is_completed(), str(state.message))
            say(str(state.message))

    def drill(self) -> None:
        """The weekly drill."""
        from flows.restore_drill import restore_drill

        with self.step("drill: restore it for real, compare it, drop it") as say:
            state = restore_drill(return_state=True)
            check(state.is_completed(), str(state.message))
            say(str(state.message))

    def restore_beside(self) -> None:
        """The first half of a restore; the cut-over is the operator's to ask for."""
        from blocks.catalog.databases import database_names, drop_database, maintenance
        from flows.restore import restore
        from tasks.backups.restoring import prefix_beside

        with self.step("restore it beside the catalog in use") as say:
            with maintenance(self.catalog) as connection:
                before = set(database_names(connection, prefix_beside(self.catalog.database, "restore")))
            state = restore(return_state=True)
            check(state.is_completed(), str(state.message))
            with maintenance(self.catalog) as connection:
                (name,) = set(database_names(connection, prefix_beside(self.catalog.database, "restore"))) - before
            beside = self.catalog.named(name)
            check(_jobs(beside) == _jobs(self.catalog), "the restored catalog has other jobs")
            beside.disconnect()
            with maintenance(self.catalog) as connection:
                drop_database(connection, name)
            say(f"{name} had every job; dropped again")


def _jobs(catalog: CatalogDatabase) -> int:
    count = text("SELECT count(*) FROM jobs")
    jobs: int = catalog.transaction(lambda connection: connection.execute(count).scalar_one())
    return jobs

"""Which Prefect server a command asks."""

from __future__ import annotations

import logging
import os

from blocks.errors import RefusedError
from flows.local.setup import local_stack


def use_local_prefect() -> None:
    """Point this process at the running embedded Prefect server, unless its settings name another one.

    To be called before Prefect is imported: its settings are read then.

    Raises:
        RefusedError: there is no server to ask (Prefect would start one of its own, without any of our blocks).
    """
    # Prefect warns about events it has not sent yet whenever a short command ends.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    if os.environ.get("PREFECT_API_URL"):
        return
    stack = local_stack()
    if stack.status()["prefect"] is not None:
        os.environ.update(stack.environment())
        return
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise RefusedError("no Prefect server to ask: start the embedded stack with `make up`, or set PREFECT_API_URL")

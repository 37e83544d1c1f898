"""The Prefect server on the embedded PostgreSQL, and a worker for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from blocks.embedded.processes import LOOPBACK, Running, answers, start, wait_until

POOL = "local"


def environment(home: Path, port: int) -> dict[str, str]:
    """What every Prefect process of this stack has in its environment."""
    # A proxy of the environment's knows nothing of this machine's loopback; programs read either name.
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), LOOPBACK]))
    return {
        "no_proxy": direct,
        "NO_PROXY": direct,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Pickled results would run code when they are read.
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_CLI_PROMPT": "false",
        # The pages would ask port 4200 otherwise, whatever the server's port is.
        "PREFECT_SERVER_UI_API_URL": f"http://{LOOPBACK}:{port}/api",
        # The newer pages of Prefect 3.8.8 save a block's nested credentials as the asterisks that they show.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }


def start_prefect(
    home: Path,
    port: int,
    socket_folder: Path,
    *,
    log: Path,
    begun: Callable[[Running], None] | None = None,
) -> Running:
    """Start the server and wait until it answers; the first start makes its tables and takes some 15 s."""
    home.mkdir(parents=True, exist_ok=True)
    # Not SQLite: from about a thousand task runs on it answers "database is locked".
    database = f"postgresql+asyncpg://postgres@/prefect?host={quote(str(socket_folder))}"
    env = environment(home, port) | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    env.pop("PREFECT_API_URL")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]
    running = start(command, log=log, env=env, cwd=home, begun=begun)
    wait_until(
        lambda: answers(f"http://{LOOPBACK}:{port}/api/health"),
        what="the Prefect server",
        running=running,
        log=log,
        seconds=120,
    )
    return running


def start_worker(home: Path, port: int, *, log: Path, cwd: Path) -> Running:
    """Start a worker that runs flows as processes; it makes its work pool."""
    # A worker asks every 15 s by default; on one machine a second costs nothing.
    env = environment(home, port) | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = [
        sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
        "--name", "local-worker",
    ]  # fmt: skip
    return start(command, log=log, env=env, cwd=cwd)

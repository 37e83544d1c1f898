"""`make test`: three parts side by side, each with a stack of its own.

What needs a Prefect server waits for runs to be picked up, what is broken on purpose (`tests/chaos`) for those who try
again, and the others for disks: together they take little more than the longest of them. `tests/hostile`,
`tests/growth` and `tests/contract` go where there is time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

BROKEN = ["tests/chaos", "tests/growth", "tests/contract"]
FLOWS = ["tests/flows", "tests/hostile"]
"""All that needs a Prefect server is there."""
PARTS = {
    "others": [f"--ignore={folder}" for folder in BROKEN + FLOWS],
    "broken on purpose": BROKEN,
    "flows": FLOWS,
}


def main() -> int:
    """Run all; the first one is seen at once, the outputs of the others follow it. Returns the worst exit code."""
    with tempfile.TemporaryDirectory(prefix="parts-") as folder:
        logs = [Path(folder) / f"{name}.log" for name in PARTS][1:]
        parts = [_begin(name, log) for name, log in zip(PARTS, [None, *logs], strict=True)]
        # Interrupted, each stops its servers before it ends, and is waited for. A terminal tells all by itself.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: [part.terminate() for part in parts])
        codes = [part.wait() for part in parts]
        for log in logs:
            sys.stdout.write(log.read_text())
    return max(codes)


def _begin(name: str, log: Path | None) -> subprocess.Popen[bytes]:
    # The longest part waits for heartbeats and schedules, by the clock: it goes first where processors are few, and the
    # others have both when it is through.
    priority = [] if name == "flows" else ["nice", "-n", "15"]
    command = [*priority, sys.executable, "-m", "pytest", "-m", "not chaos", *PARTS[name]]
    if log is None:
        return subprocess.Popen(command)
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())

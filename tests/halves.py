"""`make test`: the tests that need a Prefect server and all others at the same time, each half with its own stack.

Flows wait for runs to be picked up, the others for disks: side by side they take little more than the longer half.
Some tests that need no Prefect go with the flows (`BESIDE_FLOWS` in conftest.py), so that both are as long.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

OTHERS, FLOWS = "not chaos and not prefect and not beside_flows", "not chaos and (prefect or beside_flows)"


def main() -> int:
    """Run both; the second one's output follows the first one's. Returns the worse exit code."""
    with tempfile.TemporaryDirectory(prefix="halves-") as folder:
        log = Path(folder) / "flows.log"
        with log.open("w") as file:
            flows = subprocess.Popen(_pytest(FLOWS), stdout=file, stderr=subprocess.STDOUT)
            others = subprocess.Popen(_pytest(OTHERS))
            # Interrupted, each stops its servers before it ends, and is waited for. A terminal tells both by itself.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: [half.terminate() for half in (flows, others)])
            codes = [half.wait() for half in (others, flows)]
        sys.stdout.write(log.read_text())
    return max(codes)


def _pytest(which: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-m", which]


if __name__ == "__main__":
    sys.exit(main())

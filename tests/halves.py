"""`make test`: the tests that need a Prefect server and all others at the same time, each half with its own stack.


Flows wait for runs to be picked up, the others for disks: side by side they take little more than the longer half.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

OTHERS, FLOWS = "not prefect and not chaos", "prefect and not chaos"


def main() -> int:
    """Run both; the second one's output follows the first one's. Returns the worse exit code."""
    with tempfile.TemporaryDirectory(prefix="halves-") as folder:
        log = Path(folder) / "flows.log"
        with log.open("w") as file:
            flows = subprocess.Popen(_pytest(FLOWS), stdout=file, stderr=subprocess.STDOUT)
            try:
                code = subprocess.run(_pytest(OTHERS), check=False).returncode
            finally:
                # Interrupted, both were: each stops its servers before it ends.
                code_of_flows = flows.wait()
        sys.stdout.write(log.read_text())
    return max(code, code_of_flows)


def _pytest(which: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-m", which]


if __name__ == "__main__":
    sys.exit(main())

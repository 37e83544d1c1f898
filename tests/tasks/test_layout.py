"""Keys and names: no name a user gave reaches a key, and no key is written twice."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.catalog.tables import ObjectKind
from tasks.layout import (
    Named,
    content_type,
    extension,
    friendly_name,
    name_output,
    object_key,
    original_name,
    playlist_key,
    rewritten_key,
    temp_key,
    upload_key,
)

ANY_TEXT = st.text(st.characters())
# Dots and slashes in every order are what the last dot is looked for in.
NAMES = st.one_of(ANY_TEXT, st.text(st.sampled_from("ab0./-"), max_size=12))


@settings(deadline=None)
@given(st.uuids(), NAMES, st.uuids(), st.uuids())
def test_a_rewritten_key_is_new_and_keeps_the_extension(job: UUID, name: str, first: UUID, second: UUID) -> None:
    key = rewritten_key(job, "original", name, first)
    assert key != object_key(job, name)
    assert extension(key) == extension(object_key(job, name))
    assert key.startswith(f"processed/{job}/")
    assert (key == rewritten_key(job, "original", name, second)) == (first == second)


def test_a_rewritten_upload_keeps_its_users_file_name_out_of_the_key() -> None:
    job, writing = uuid4(), uuid4()
    assert rewritten_key(job, "upload", "uploads/1/my secret.jpg", writing) == f"uploads/{job}/{writing}"


@pytest.mark.parametrize(
    ("name", "rewritten"), [("a/b.mp4", "a/b.{}.mp4"), ("a.b/c", "a.b/c.{}"), ("c", "c.{}"), ("c.", "c.{}.")]
)
def test_a_rewritten_key_stays_in_its_folder(name: str, rewritten: str) -> None:
    job, writing = uuid4(), uuid4()
    assert rewritten_key(job, "original", name, writing) == f"processed/{job}/{rewritten.format(writing)}"


@settings(deadline=None)
@given(ANY_TEXT)
def test_nothing_of_a_file_name_but_a_plain_extension_reaches_a_key(filename: str) -> None:
    assert re.fullmatch(r"raw/video_original\.[a-z0-9]{1,8}", original_name(filename), flags=re.ASCII)


@settings(deadline=None)
@given(st.one_of(NAMES, NAMES.map(lambda name: f"720p/segments/{name}")))
def test_an_output_keeps_its_path_and_stays_in_its_folder(path: str) -> None:
    named = name_output(path)
    if named:
        assert named.name == path
        assert not {"", ".", ".."} & set(path.split("/"))
        assert path.isascii()


@pytest.mark.parametrize(
    ("filename", "ending"),
    [
        ("a.mp4", "mp4"), ("a.MKV", "mkv"), (".mp4", "mp4"), ("a.tar.gz", "gz"), ("mp4", "bin"), ("", "bin"),
        ("a.", "bin"), ("..", "bin"), ("a.mp4/", "bin"), ("a.b/c", "bin"), ("a.mp4\n", "bin"), ("a.m\0p", "bin"),
        ("a.\ud800", "bin"), ("a.🎬", "bin"), ("a.m٣", "bin"), ("a.\u202e4pm", "bin"), ("a." + "x" * 1000, "bin"),
        ("a.12345678", "12345678"), ("a.123456789", "bin"),
    ],
)  # fmt: skip
def test_extensions(filename: str, ending: str) -> None:
    assert extension(filename) == ending


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("360p/video_360p.mp4", ObjectKind.VIDEO_360P),
        ("720p/video_720p.mp4", ObjectKind.VIDEO_720P),
        ("audio/audio.mp3", ObjectKind.AUDIO),
        ("transcription/transcript.vtt", ObjectKind.TRANSCRIPT_VTT),
        ("metadata.json", ObjectKind.METADATA),
        ("360p/segments/playlist.m3u8", ObjectKind.HLS_360P),
        ("720p/segments/segment_000.ts", ObjectKind.HLS_720P),
        ("720p/segments/" + "s" * 201, ObjectKind.HLS_720P),
    ],
)
def test_outputs_of_the_platform(path: str, kind: ObjectKind) -> None:
    assert name_output(path) == Named(kind, path)


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/", "metadata.json\n", "/metadata.json", "METADATA.json", "a/metadata.json", "notes.txt",
        "480p/segments/a.ts", "360p/segments/", "360p/segments/..", "360p/segments/.ts", "360p/segments/a/b.ts",
        "360p/segments/../a.ts", "360p/segments/a.ts\n", "360p/segments/a\0", "360p/segments/٣.ts",
        "360p/segments/🎬.ts", "720p/segments/" + "s" * 202, "360p\\segments\\a.ts", "360p/segments/a\ud800",
    ],
)  # fmt: skip
def test_what_is_no_output(path: str) -> None:
    assert name_output(path) is None


@pytest.mark.parametrize(
    ("kind", "name", "saved_as"),
    [
        ("original", "raw/video_original.mov", "my.film.mov"),
        ("video_360p", "360p/video_360p.mp4", "my.film_360p.mp4"),
        ("audio", "audio/audio.mp3", "my.film_audio.mp3"),
        ("transcript_srt", "transcription/transcript.srt", "my.film_transcript.srt"),
        ("metadata", "metadata.json", "my.film_metadata.json"),
        ("hls_720p", "720p/segments/playlist.m3u8", "my.film_720p_playlist.m3u8"),
        ("upload", "uploads/notes.pdf", "notes.pdf"),
    ],
)
def test_names_a_browser_saves_under(kind: str, name: str, saved_as: str) -> None:
    assert friendly_name("my.film.mov", kind, name) == saved_as


@pytest.mark.parametrize("filename", ["film", ".film"])
def test_a_name_without_a_stem_is_its_own(filename: str) -> None:
    assert friendly_name(filename, "audio", "audio/audio.mp3") == f"{filename}_audio.mp3"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.MP4", "video/mp4"), ("a.m3u8", "application/vnd.apple.mpegurl"), ("a.html", "application/octet-stream")],
)
def test_only_known_endings_have_a_media_type_of_their_own(name: str, media_type: str) -> None:
    assert content_type(name) == media_type


def test_kinds_of_keys_lie_apart() -> None:
    job, other = uuid4(), uuid4()
    keys = [object_key(job, "a"), temp_key(job), upload_key(job, other), playlist_key(job, "hls_360p", other)]
    assert [key.partition("/")[0] for key in keys] == ["processed", "temp", "uploads", "exports"]

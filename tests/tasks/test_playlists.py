"""Every file a playlist names gets its URL, and nothing else in it changes."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import ContentMismatchError
from tasks.playlists import presigned_playlist, segment_names

PLAYLIST = """#EXTM3U
#EXT-X-VERSION:7
#EXT-X-MAP:URI="init.mp4",BYTERANGE="720@0"
#EXTINF:4.000,
segment_000.ts

#EXTINF:2.5,
segment%20001.ts
#EXT-X-ENDLIST
"""
FILES = st.text(min_size=1, max_size=20)
# A line: what is before the file it names, the file if there is one, what is after it.
LINES = st.one_of(
    st.tuples(st.sampled_from(["#EXTM3U", "#EXTINF:4.0,a title", "# segment.ts", ""]), st.none(), st.just("")),
    st.tuples(st.just(""), FILES, st.just("")),
    st.tuples(st.just('#EXT-X-MAP:URI="'), FILES, st.just('",BYTERANGE="7@0"')),
)


@settings(deadline=None)
@given(st.lists(LINES), st.sampled_from(["\n", "\r\n"]))
def test_all_files_and_only_files_are_replaced(lines: list[tuple[str, str | None, str]], line_end: str) -> None:
    playlist = "".join(f"{before}{quote(name or '', safe='')}{after}{line_end}" for before, name, after in lines)
    names = [name for _, name, _ in lines if name is not None]
    assert segment_names(playlist) == names
    urls = {name: f"https://s3/{number}?X-Amz-Signature=a%2Fb&c" for number, name in enumerate(names)}
    signed = presigned_playlist(playlist, urls)
    expected = [f"{before}{urls[name] if name else ''}{after}" for before, name, after in lines]
    assert signed == "\n".join(expected) + "\n"
    assert segment_names(signed) == [unquote(urls[name]) for name in names]


@settings(deadline=None)
@given(st.lists(FILES, min_size=1, unique=True), st.data())
def test_one_missing_url_is_enough_to_refuse(names: list[str], data: st.DataObject) -> None:
    missing = data.draw(st.sampled_from(names))
    playlist = "\n".join(quote(name, safe="") for name in names)
    with pytest.raises(ContentMismatchError, match="not among the job's segments"):
        presigned_playlist(playlist, {name: "https://s3" for name in names if name != missing})


def test_a_playlist_as_ffmpeg_writes_it() -> None:
    assert segment_names(PLAYLIST) == ["init.mp4", "segment_000.ts", "segment 001.ts"]
    urls = {"init.mp4": "https://s3/i?a=1&b", "segment_000.ts": "https://s3/0", "segment 001.ts": "https://s3/1"}
    signed = PLAYLIST.replace("init.mp4", urls["init.mp4"])
    signed = signed.replace("segment_000.ts", "https://s3/0").replace("segment%20001.ts", "https://s3/1")
    assert presigned_playlist(PLAYLIST, urls) == signed


def test_a_url_is_text_and_no_pattern() -> None:
    assert presigned_playlist('#EXT-X-MAP:URI="a"', {"a": r"\1\g<0>"}) == '#EXT-X-MAP:URI="\\1\\g<0>"\n'


def test_a_file_named_twice_is_replaced_twice() -> None:
    assert presigned_playlist("a.ts\n#EXT-X-DISCONTINUITY\na.ts\n", {"a.ts": "u"}) == "u\n#EXT-X-DISCONTINUITY\nu\n"


@pytest.mark.parametrize("playlist", ["", "\n", "\r\n\r\n", "#EXTM3U", "#EXTM3U\n#EXT-X-ENDLIST\n", "  \t "])
def test_playlists_without_files(playlist: str) -> None:
    assert segment_names(playlist) == []
    assert presigned_playlist(playlist, {}).split() == playlist.split()


@pytest.mark.parametrize(
    "name",
    ["..", "/", "../a.ts", "/etc/passwd", "%2e%2e/a.ts", "a.ts?x=1", "https://elsewhere/a.ts", "a\0", "\ud800", "🎬",
     "\u202ea", "123", "%", "%ff", "x" * 1000, "A.TS"],
)  # fmt: skip
def test_a_name_that_is_no_segment_gets_no_url(name: str) -> None:
    for playlist in (name, f'#EXT-X-KEY:METHOD=AES-128,URI="{name}"'):
        with pytest.raises(ContentMismatchError, match="not among the job's segments"):
            presigned_playlist(playlist, {"a.ts": "https://s3/a.ts"})

"""The header a browser takes a file's name from: no name breaks out of it."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.object_store.presigning import content_disposition

HEADER = re.compile(r"""attachment; filename="([^"\\%;]*)"; filename\*=UTF-8''([A-Za-z0-9._~%-]*)""")


@settings(deadline=None)
@given(st.text())
def test_any_name_survives_and_stays_inside_its_quotes(filename: str) -> None:
    header = content_disposition(filename)
    found = HEADER.fullmatch(header)
    assert found, header
    assert header.isascii()
    assert header.isprintable()
    assert len(found[1]) == len(filename)
    assert unquote(found[2], errors="strict") == filename


@pytest.mark.parametrize(
    ("filename", "plain", "encoded"),
    [
        ("film.mp4", "film.mp4", "film.mp4"),
        ("a film.mp4", "a film.mp4", "a%20film.mp4"),
        ("été 🎬.mp4", "_t_ _.mp4", "%C3%A9t%C3%A9%20%F0%9F%8E%AC.mp4"),
        ('"; filename="x.exe', "__ filename=_x.exe", "%22%3B%20filename%3D%22x.exe"),
        ("a\r\nSet-Cookie: b=c", "a__Set-Cookie: b=c", "a%0D%0ASet-Cookie%3A%20b%3Dc"),
        ("a\0\\b", "a__b", "a%00%5Cb"),
        ("\u202e4pm.exe", "_4pm.exe", "%E2%80%AE4pm.exe"),
        ("%2e%2e/..", "_2e_2e/..", "%252e%252e%2F.."),
        ("'quoted'", "'quoted'", "%27quoted%27"),
        ("x" * 1000, "x" * 1000, "x" * 1000),
    ],
)
def test_names_for_old_and_new_clients(filename: str, plain: str, encoded: str) -> None:
    assert content_disposition(filename) == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"

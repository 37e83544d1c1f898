"""Sizes as people write and read them, and that no text is misread as one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import InvalidInputError
from blocks.units import MOST_BYTES, format_bytes, parse_bytes

PIB = 1024**5
# Nearly a size, so that the interesting branches are reached, or anything at all.
SIZE_LIKE = st.from_regex(r"[ \n]?-?[0-9٣]{0,21}(\.[0-9]{0,7})?[ \t]?([KMGTPEkmgtpe]i?)?[Bb]?[ \n]?", fullmatch=True)
ANY_TEXT = st.one_of(st.text(st.characters()), SIZE_LIKE)


# Above it format_bytes rounds up to 8192 PiB, which is 2**63.
@settings(deadline=None)
@given(st.integers(0, 8191 * PIB))
def test_a_printed_size_reads_back_within_its_last_digit(size: int) -> None:
    printed = format_bytes(size)
    unit = parse_bytes(f"1 {printed.split()[1]}")
    # Half of a tenth of the unit, and a little for whole bytes; nothing at all where the unit is the byte.
    assert abs(parse_bytes(printed) - size) <= unit // 19


@settings(deadline=None)
@given(st.integers(0, 1024 * PIB))
def test_a_printed_size_has_at_most_four_digits_before_the_point(size: int) -> None:
    assert float(format_bytes(size).split()[0]) <= 1024


@settings(deadline=None)
@given(ANY_TEXT)
def test_any_text_is_a_size_or_invalid(text: str) -> None:
    try:
        size = parse_bytes(text)
    except InvalidInputError as error:
        message = str(error)
    else:
        message = ""
        assert 0 <= size <= MOST_BYTES
    assert message.isprintable(), "an error message is one line"


@settings(deadline=None)
@given(st.integers(0, MOST_BYTES))
def test_plain_bytes_are_exact(size: int) -> None:
    assert parse_bytes(str(size)) == parse_bytes(f" {size} b\n") == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("10 GiB", 10 * 1024**3),
        ("1.5TB", 1_500_000_000_000),
        ("500 mib", 500 * 1024**2),
        ("\t2 KB ", 2000),
        ("0.5 KiB", 512),
        ("007", 7),
        ("8191 PiB", 8191 * PIB),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0", "+1", "1e5", "0x10", "1_000", "1,5 GiB", "1.", ".5", "1.2.3", "nan", "inf", "unlimited",
        "GiB", "10 Gi", "1 EiB", "1 GiB 2", "1 G B", "٣", "１０", "²", "1\u00a0GiB", "1\x00", "1\ud800", "1\u202eBiG",
        "10 GiB\n10 GiB", "5 🎬", "..", "/", "1" * 1000, str(2**63), f"{2**63}.0", "8192 PiB", "9" * 19 + " TiB",
        "0.0000001 PiB",
    ],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "printed"),
    [
        (None, "unlimited"),
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (-1536, "-1.5 KiB"),
        (1024**2 - 1, "1 MiB"),
        (10 * 1024**3, "10 GiB"),
        (5 * 1024**4, "5 TiB"),
        (-(2**63), "-8192 PiB"),
        (2**64, "16384 PiB"),
    ],
)
def test_sizes_as_people_read_them(size: int | None, printed: str) -> None:
    assert format_bytes(size) == printed

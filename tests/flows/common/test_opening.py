"""What flows show."""

from __future__ import annotations

from flows.common.opening import escaped, markdown_rows


def test_a_file_name_is_only_a_name_in_markdown() -> None:
    assert escaped("[HD] clip ](2).mp4") == r"\[HD\] clip \]\(2\).mp4"
    assert escaped("![x](http://host/y)<script>") == r"\!\[x\]\(http://host/y\)\<script\>"
    assert escaped("plain name.mp4") == "plain name.mp4"


def test_a_table_keeps_its_cells() -> None:
    assert markdown_rows([("name", "a|b\n`c`")], head=("what", "value")).splitlines()[-1] == r"| name | a\|b 'c' |"

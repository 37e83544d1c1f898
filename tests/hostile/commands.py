"""For every command: arguments that work, and what is hostile to each of its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import click
from typer.main import get_command
from typer.testing import CliRunner, Result

from flows.commands.app import app
from tests.hostile.besieged import HERE, OWNER, VAULT, Platform
from tests.hostile.values import LONG, SQL, UNKNOWN_ID

NAMES = ("../x", "a\n\0b", "\ud800", LONG, SQL, "[bold]")
FOLDERS = ("/nowhere", "~nobody/x", "a\0b", LONG)
BLOCKS = {"catalog": HERE, "store": HERE, "policy": HERE, "backups": VAULT}
WORDS = {"before": NAMES, "metadata_objects": NAMES, "catalog_id": NAMES, "store_url": ("x", "s3://", "s3://a b", "https://h/x"),
         "identity_file": FOLDERS, "backup": NAMES}  # fmt: skip
"""What more than one command takes."""


@dataclass(frozen=True)
class Command:
    """A command's arguments, with words that it takes, and hostile values of these and of its options."""

    arguments: dict[str, str] = field(default_factory=dict)
    hostile: dict[str, tuple[str, ...]] = field(default_factory=dict)
    with_others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Options that have to be given too, for one to be looked at."""
    free: tuple[str, ...] = ()
    """Options that are switches, or that take anything."""


OWNERS_JOB = "{job}"
"""Stands for a job that is there: what is refused is refused for the hostile value alone."""
ADDRESS = {"endpoint": ("--store-url", "s3://bucket"), "database_url": ("--store-url", "s3://bucket"),
           "store_url": ("--database-url", "postgresql://u@127.0.0.1:1/d")}  # fmt: skip
COMMANDS: dict[tuple[str, ...], Command] = {
    ("restore",): Command(
        {"backup": "latest"},
        WORDS
        | {"database_url": ("x", "postgresql://", "mysql://h/d", "postgresql://u:pw@h/d", "postgresql://u@h:x/d")},
        ADDRESS, free=("cutover", "yes", "even_if_damaged", "even_if_unreadable", "reopen", "scratch", "endpoint"),
    ),
    ("alarms",): Command(hostile={"notify": (*NAMES, "slack-webhook/", "catalog-database/main", "a/b/c")}),
    ("report",): Command(
        {"folder": "/dev/null/x"}, {"folder": ("/dev/null/x", "a\0b"), "key": NAMES, "date": NAMES}
    ),
    ("analyst",): Command({"name": "reader"}, {"name": (*NAMES, "postgres", "pg_monitor", "Ä", "x" * 64)}),
    ("example",): Command(hostile={"days": ("0", "-1", "many", "9" * 30)}, free=("folder", "again")),
    ("up",): Command(hostile={"videos": FOLDERS}),
    ("down",): Command(),
    ("status",): Command(),
    ("upgrade",): Command(),
    ("demo",): Command(hostile={"videos": FOLDERS}, free=("keep_running",)),
    ("url",): Command(
        {"api_key": OWNER, "job_id": OWNERS_JOB, "kind": "audio"},
        {"api_key": NAMES, "job_id": NAMES, "kind": NAMES, "expires_in": ("0", "-1", "9" * 30, "soon"), "name": NAMES},
        free=("accept_encoding",),
    ),
    ("explain",): Command({"reference": UNKNOWN_ID}, {"reference": (*NAMES, "")}),
    ("key", "create"): Command({"label": "new"}, {"label": (*NAMES, "", "123"), "quota": ("[x]", "", "-1", "9" * 20)}),
    ("key", "list"): Command(),
    ("key", "quota"): Command({"api_key": OWNER, "quota": "1 GiB"}, {"api_key": NAMES, "quota": (SQL, "-1")}),
    ("key", "disable"): Command({"api_key": OWNER}, {"api_key": NAMES}, free=("enable",)),
    ("location", "list"): Command(),
    ("location", "retire"): Command({"name": HERE}, {"name": NAMES}, free=("gone",)),
    ("backup", "list"): Command(hostile={"store_url": WORDS["store_url"]}, free=("endpoint",)),
    ("backup", "verify"): Command(
        {"backup": "latest"}, {name: WORDS[name] for name in ("backup", "identity_file")}, free=("contents",)
    ),
    ("backup", "hold"): Command(
        {"backup": "latest"}, {"backup": NAMES}, {"backup": ("--release",)}, free=("reason", "release")
    ),
    ("backup", "settings"): Command(
        {"backup": "latest"}, {name: WORDS[name] for name in ("backup", "store_url", "identity_file")},
        free=("endpoint", "save"),
    ),
    ("backup", "key"): Command(hostile={"save": ("../x", "a\0b", "a\nb", "\ud800", SQL)}),
}  # fmt: skip
LOCAL = (("up",), ("down",), ("status",), ("demo",), ("example",))
"""They look after the embedded stack of this machine, and name no block."""


def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command of the app, by its words."""

    def walk(group: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        if not hasattr(group, "commands"):
            yield words, group
            return
        for name, one in group.commands.items():
            yield from walk(one, (*words, name))

    return dict(walk(get_command(app), ()))


APP = commands()


def hostile(words: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Values by option or argument, names of blocks included."""
    blocks = {one.name: ("../besieged",) for one in APP[words].params if one.name in BLOCKS}
    return blocks | COMMANDS[words].hostile


def line(words: tuple[str, ...], name: str, value: str) -> list[str]:
    """The command with one hostile value, which may look like an option."""
    said = COMMANDS[words]
    arguments = list((said.arguments | ({name: value} if name in said.arguments else {})).values())
    blocks = {one: block for one, block in BLOCKS.items() if one in hostile(words) and one != name}
    options = [word for one, block in blocks.items() for word in (f"--{one}", block)]
    if name not in said.arguments:
        options += [f"--{name.replace('_', '-')}={value}"]
    return [*words, *options, *said.with_others.get(name, ()), "--", *arguments]


def run(platform: Platform, *arguments: str) -> Result:
    """A command, in this process."""
    job = str(platform.jobs[OWNER])
    return CliRunner().invoke(app, [one.replace(OWNERS_JOB, job) for one in arguments])

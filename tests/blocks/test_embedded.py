"""The embedded stack: started twice, killed in part, stopped by pid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from blocks.embedded import Stack, postgres, prefect_server, seaweedfs
from blocks.embedded.processes import Running, find, free_port, identify, stop
from blocks.errors import InvalidInputError
from tests.conftest import RunningStack


def test_started_twice_killed_and_started_again() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    try:
        first = stack.start(prefect=False)
        pids = stack.status()
        assert stack.start(prefect=False) == first
        assert stack.status() == pids
        assert not stack.kept
        stack.keep()
        assert stack.kept
        for name in ("s3", "postgres"):
            process = psutil.Process(pids[name])
            process.kill()
            process.wait(20)
            assert stack.status()[name] is None
        assert stack.start(prefect=False).s3_url == first.s3_url, "addresses survive"
        assert not stack.kept, "what was to go on was killed"
        assert None not in (stack.status()["s3"], stack.status()["postgres"])
        listening = [
            connection.laddr.ip
            for name in ("s3", "postgres")
            for connection in psutil.Process(stack.status()[name]).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}
        assert stat.S_IMODE((folder / "stack.json").stat().st_mode) == 0o600
        assert sorted(stack.stop()) == ["postgres", "s3"]
        assert set(stack.status().values()) == {None}
        assert stack.stop() == []
        assert not stack.kept
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_follows_its_server_to_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ask at the old one for ever, and look well."""
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    started: list[subprocess.Popen[bytes]] = []

    def begin(*_: object, **__: object) -> Running:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return identify(psutil.Process(started[-1].pid))

    def kill_prefect() -> None:
        psutil.Process(stack.status()["prefect"]).kill()
        started[-1].wait()

    monkeypatch.setattr(prefect_server, "start_prefect", begin)
    monkeypatch.setattr(prefect_server, "start_worker", begin)
    try:
        stack.start()
        kill_prefect()
        stack.start_worker(cwd=folder)
        worker = stack.status()["worker"]
        stack.start()
        assert stack.status()["worker"] == worker is not None, "at the same port"
        kill_prefect()
        with socket.create_server(("127.0.0.1", stack._read().ports["prefect"])):
            stack.start()
        assert stack.status()["worker"] is None
        assert stack.status()["prefect"] == started[-1].pid
    finally:
        stack.stop()
        for one in started:
            one.kill()
            one.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_killed_while_it_starts_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a server that did not answer yet, nor a PostgreSQL that was never ready: a terminal that is closed."""
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    stack.data.mkdir()
    (stack.data / "PG_VERSION").write_text("18\n")  # initdb came no further
    (folder / "pg.begun").touch()

    def killed(*_: object, **__: object) -> None:
        os._exit(9)

    try:
        if (child := os.fork()) == 0:
            monkeypatch.setattr(seaweedfs, "wait_until", killed)
            with suppress(BaseException):
                stack.start(prefect=False)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert None not in (stack.status()["s3"], stack.status()["postgres"])
        assert not (folder / "pg.begun").exists()
        assert sorted(stack.stop()) == ["postgres", "s3"]
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ["two words", "a&b", "a,b", "$HOME", "it's"])
def test_a_path_that_postgresql_does_not_take(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"does not take: set TRANSCODE_FLOW_HOME"):
        postgres.start(tmp_path / name / "pg")
    assert not (tmp_path / name).exists()


def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    running = identify(psutil.Process())
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: 0.0)
    assert find(running) is not None


def test_there_is_room_for_many_buckets(running_stack: RunningStack) -> None:
    """Whatever is free on the disk: by itself it stops at as many as there are GiB, and answers 500 from then on."""
    ports = json.loads((running_stack.stack.folder / "stack.json").read_text())["ports"]
    status = httpx.get(f"http://127.0.0.1:{ports['master']}/dir/status").json()
    assert status["Topology"]["Max"] >= 10_000


def test_a_stranger_with_our_pid_is_left_alone() -> None:
    myself = replace(identify(psutil.Process()), started_at=1.5)
    assert find(myself) is None
    assert stop(myself) is False


def test_a_taken_port_is_passed_over() -> None:
    port = free_port()
    assert free_port(port) == port
    assert free_port(port, taken=frozenset({port})) != port


def test_a_folder_too_deep_for_a_socket() -> None:
    deep = Stack(Path("/tmp") / ("x" * 100))
    assert set(deep.status().values()) == {None}, "whoever asks another server looks here first"
    with pytest.raises(InvalidInputError, match="TRANSCODE_FLOW_HOME"):
        deep.start(prefect=False)


def test_private_parents_are_not_opened_for_reading(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with postgres._parents_stay_closed(private / "pg"):
        private.chmod(0o755)
    # Root's PostgreSQL runs as another user; anybody else's opens no folder, and modes are left as they are.
    assert stat.S_IMODE(private.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o755)

"""Registering what the transcoder made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blocks.errors import InvalidInputError, NotFoundError, OvertakenError, RefusedError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.intake import outputs
from tasks.intake.outputs import RegisterReport, register_outputs
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs


@pytest.fixture
def register(catalog, location, policy):  # type: ignore[no-untyped-def]
    def run(job_id, folder):  # type: ignore[no-untyped-def]
        return register_outputs(catalog, location, policy, job_id=job_id, outputs=str(folder))

    yield run
    assert_sound(catalog, location)


def test_a_folder_completes_the_job(register, new_job, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    folder = write_outputs(tmp_path / "out")
    (folder / "core.dump").write_bytes(b"not ours")
    report = register(job, folder)
    assert len(report.registered) == 2 + 2 * 4 + 1 + 4 + 1
    assert report.skipped == ("core.dump",)
    assert rows(catalog, "SELECT status, completed_at IS NOT NULL FROM jobs") == [("completed", True)]
    assert f"processed/{job}/720p/segments/playlist.m3u8" in stored_keys(location)
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'register'") == len(report.registered)


def test_the_platforms_view(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    register(job, write_outputs(tmp_path / "out"))
    view = rows(catalog, "SELECT * FROM job_outputs")[0]
    assert view.source_size_bytes == len(b"the original")
    assert view.output_360p_size_bytes == len(b"mp4 360p") * 10
    assert view.output_audio_size_bytes == len(b"sound")
    hls = rows(catalog, "SELECT sum(size_bytes) FROM stored_objects WHERE kind = 'hls_720p'")[0][0]
    assert view.segments_720p_size_bytes == hls
    assert view.source_path == f"processed/{job}/raw/video_original.mp4"
    assert view.segments_360p_path == f"processed/{job}/360p/segments/playlist.m3u8"
    assert view.transcript_vtt_path == f"processed/{job}/transcription/transcript.vtt"


def test_twice_is_once(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    folder = write_outputs(tmp_path / "out")
    first = register(job, folder)
    again = register(job, folder)
    assert (again.registered, len(again.already_there)) == ((), len(first.registered))
    (folder / "audio" / "audio.mp3").write_bytes(b"other sound")
    with pytest.raises(InvalidInputError, match="audio/audio.mp3 of job .* other content"):
        register(job, folder)


def test_outputs_may_come_in_two_steps(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    (tmp_path / "one" / "audio").mkdir(parents=True)
    (tmp_path / "one" / "audio" / "audio.mp3").write_bytes(b"sound")
    register(job, tmp_path / "one")
    report = register(job, write_outputs(tmp_path / "out"))
    assert report.already_there == ("audio/audio.mp3",)


@pytest.mark.parametrize("copies", [True, False])
def test_a_prefix_under_temp(register, new_job, catalog, location, tmp_path, monkeypatch, copies: bool) -> None:  # type: ignore[no-untyped-def]
    """Copied inside the server, or read and written where it does not copy."""
    job = new_job()
    if not copies:

        def refused(*_: object, **__: object) -> None:
            raise RefusedError("the server does not copy in parts")

        monkeypatch.setattr("tasks.writing.copy", refused)
    folder = write_outputs(tmp_path / "out")
    for path in folder.rglob("*"):
        if path.is_file():
            put_bytes(location.store, f"temp/w1/{path.relative_to(folder)}", path.read_bytes(), {})
    assert len(register(job, "temp/w1").registered) == 16
    assert_sound(catalog, location)
    for hostile in ("temp/../processed", "temp/", "temp//x"):
        with pytest.raises(InvalidInputError):
            register(job, hostile)


def test_room_held_for_outputs_is_given_back(register, new_job, catalog, policy, tmp_path) -> None:  # type: ignore[no-untyped-def]
    policy.expected_outputs_ratio = 2.0
    job = new_job()
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 2 * len(b"the original")
    register(job, write_outputs(tmp_path / "out"))
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_an_overrun_is_kept_and_reported(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = 100")
    report = register(job, write_outputs(tmp_path / "out"))
    assert "over its quota of 100 B" in report.over_quota
    assert one(catalog, "SELECT status FROM jobs") == "completed"


def test_a_playlist_without_its_segments(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    folder = write_outputs(tmp_path / "out")
    (folder / "720p" / "segments" / "segment_0001.ts").unlink()
    with pytest.raises(InvalidInputError, match="segment_0001.ts', which is not there"):
        register(job, folder)
    (folder / "720p" / "segments" / "playlist.m3u8").unlink()
    with pytest.raises(InvalidInputError, match="holds segments and no playlist"):
        register(job, folder)
    assert one(catalog, "SELECT count(*) FROM stored_objects") == 1


def test_jobs_that_take_no_outputs(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    for unknown in ("00000000-0000-0000-0000-000000000000",):
        with pytest.raises(NotFoundError):
            register(unknown, folder)
    for nonsense in ("", "../x", "x" * 1000, "\0", "'; DROP TABLE jobs"):
        with pytest.raises(InvalidInputError, match="is no job id"):
            register(nonsense, folder)
    with pytest.raises(RefusedError, match="no source root"):
        register(job, "/etc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no outputs of the platform"):
        register(job, tmp_path / "empty")
    execute(catalog, "UPDATE jobs SET status = 'failed', error_message = 'broken file'")
    with pytest.raises(RefusedError, match="is failed: broken file"):
        register(job, folder)


def test_a_link_among_the_outputs_is_not_followed(register, new_job, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    (folder / "metadata.json").unlink()
    (folder / "metadata.json").symlink_to("/etc/passwd")
    assert register(job, folder).skipped == ("metadata.json",)


def test_a_job_failed_meanwhile_keeps_nothing(register, new_job, catalog, location, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    write = outputs.write_objects

    def fail_meanwhile(*arguments, **options):  # type: ignore[no-untyped-def]
        written = write(*arguments, **options)
        execute(catalog, "UPDATE jobs SET status = 'failed'")
        return written

    monkeypatch.setattr(outputs, "write_objects", fail_meanwhile)
    with pytest.raises(OvertakenError):
        register(job, folder)
    assert stored_keys(location) == [f"processed/{job}/raw/video_original.mp4"]
    assert one(catalog, "SELECT count(*) FROM stored_objects") == 1


def test_a_broken_off_registration_is_done_again_elsewhere(register, new_job, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, "
        " stored_bytes, sha256) "
        "SELECT gen_random_uuid(), id, api_key_id, 'audio', 'audio/audio.mp3', 1, "
        "       'processed/' || id || '/audio/audio.mp3', 9, 9, repeat('0', 64) FROM jobs",
    )
    put_bytes(location.store, f"processed/{job}/audio/audio.mp3", b"half done", {})
    register(job, folder)
    (key,) = (row.key for row in rows(catalog, "SELECT key FROM stored_objects WHERE kind = 'audio'"))
    assert key != f"processed/{job}/audio/audio.mp3", "no key is ever written twice"
    assert f"processed/{job}/audio/audio.mp3" not in stored_keys(location), "and what was half done is gone"


def test_a_restored_catalog_writes_over_nothing_that_was_stored_after_its_backup(  # type: ignore[no-untyped-def]
    register, new_job, catalog, location, tmp_path
) -> None:
    job, folder = new_job(), write_outputs(tmp_path / "out")
    put_bytes(location.store, f"processed/{job}/audio/audio.mp3", b"newer than the backup", {})
    execute(catalog, "UPDATE catalog_identity SET epoch = 2")
    register(job, folder)
    assert read_bytes(location.store, f"processed/{job}/audio/audio.mp3", at_most=100) == b"newer than the backup"
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 17
    delete_keys(location.store, [f"processed/{job}/audio/audio.mp3"])


def test_two_registrations_at_once(register, new_job, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(register, job, folder) for _ in range(3)]
    results = [call.exception() or call.result() for call in calls]
    assert all(isinstance(result, OvertakenError | RegisterReport) for result in results), results
    assert any(isinstance(result, RegisterReport) for result in results)
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 17


@pytest.mark.parametrize("hostile", ["temp/\ud800", "temp/\0x", "\0", "x" * 1000, "", "/nowhere", "temp/" + "y" * 1000])
def test_folders_that_are_none(register, new_job, tmp_path, hostile: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((InvalidInputError, RefusedError)):
        register(new_job(), hostile)
    with pytest.raises((InvalidInputError, RefusedError)):
        register(new_job(), str(tmp_path / ("z" * 300)))


@pytest.mark.parametrize("state", ["missing", "corrupt"])
def test_lost_outputs_get_their_bytes_back_from_the_very_files(  # type: ignore[no-untyped-def]
    register, new_job, catalog, location, tmp_path, state: str
) -> None:
    job, folder = new_job(), write_outputs(tmp_path / "out")
    first = register(job, folder)
    lost = ("720p/segments/segment_0001.ts", "audio/audio.mp3")
    used = one(catalog, "SELECT storage_used_bytes FROM api_keys")
    keys = [row.key for row in rows(catalog, f"SELECT key FROM stored_objects WHERE name IN {lost}")]
    delete_keys(location.store, keys)
    execute(catalog, f"UPDATE stored_objects SET state = '{state}', generation = generation + 1 WHERE name IN {lost}")
    report = register(job, folder)
    assert (report.healed, report.registered, len(report.already_there)) == (lost, (), len(first.registered) - 2)
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 17
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == used
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'heal' AND rule = 'output_lost'") == 2
    # No key is written twice: somebody may still remove what lay there.
    assert not set(keys) & {row.key for row in rows(catalog, "SELECT key FROM stored_objects")}


def test_a_lost_output_is_not_replaced_by_other_content(register, new_job, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    register(job, folder)
    delete_keys(location.store, [f"processed/{job}/audio/audio.mp3"])
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE name = 'audio/audio.mp3'")
    (folder / "audio" / "audio.mp3").write_bytes(b"other sound")
    with pytest.raises(InvalidInputError, match="audio/audio.mp3 of job .* is missing with other content"):
        register(job, folder)
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'missing'") == 1


def test_a_lost_output_comes_back_from_a_prefix(register, new_job, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    register(job, folder)
    delete_keys(location.store, [f"processed/{job}/audio/audio.mp3"])
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE name = 'audio/audio.mp3'")
    put_bytes(location.store, "temp/w2/audio/audio.mp3", (folder / "audio" / "audio.mp3").read_bytes(), {})
    assert register(job, "temp/w2").healed == ("audio/audio.mp3",)
    assert not [key for key in stored_keys(location) if key.startswith("temp/")]


@pytest.mark.parametrize("lost", ["720p/segments/segment_0001.ts", "720p/segments/playlist.m3u8"])
def test_the_very_file_is_enough_to_heal_a_stream(register, new_job, catalog, location, tmp_path, lost: str) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    register(job, folder)
    delete_keys(location.store, [f"processed/{job}/{lost}"])
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE name = :name", name=lost)
    alone = tmp_path / "alone" / lost
    alone.parent.mkdir(parents=True)
    alone.write_bytes((folder / lost).read_bytes())
    assert register(job, tmp_path / "alone").healed == (lost,)
    # A file that the stream does not have yet is none of it.
    (alone.parent / "segment_9999.ts").write_bytes(b"new")
    with pytest.raises(InvalidInputError, match="720p/segments holds segments and no playlist"):
        register(job, _without_playlist(alone))


def _without_playlist(alone: Path) -> Path:
    (alone.parent / "playlist.m3u8").unlink(missing_ok=True)
    return alone.parents[2]


def test_what_is_refused_is_refused_before_anything_is_healed(register, new_job, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job, folder = new_job(), write_outputs(tmp_path / "out")
    register(job, folder)
    delete_keys(location.store, [f"processed/{job}/audio/audio.mp3"])
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE kind = 'audio'")
    (folder / "transcription" / "transcript.txt").write_bytes(b"other words")
    with pytest.raises(InvalidInputError, match="transcript.txt of job .* other content"):
        register(job, folder)
    assert one(catalog, "SELECT state FROM stored_objects WHERE kind = 'audio'") == "missing"
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'heal'") == 0

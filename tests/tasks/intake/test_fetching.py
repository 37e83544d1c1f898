"""Sources given as URLs: a real HTTP server on loopback, and the addresses that must never be asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tasks.intake.fetching
from blocks.catalog import CatalogDatabase
from blocks.embedded.processes import free_port
from blocks.errors import InvalidInputError, RefusedError, SourceUnavailableError
from blocks.object_store.budget import Budget
from blocks.object_store.transfer import put_bytes
from blocks.policies import IngestPolicy
from tasks import ownership
from tasks.intake import fetching
from tasks.intake.fetching import check_url, fetch
from tasks.intake.ingest import ingest_videos
from tasks.layout import IDENTITY_KEY
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation
from tests.helpers import assert_sound, one, sha256, stored_keys

VIDEO = b"video over http " * 50_000


DRIPPING = {
    "/dripping.mp4": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    "/greeting.mp4": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "/interim.mp4": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "/framing.mp4": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
}
"""How an answer begins, and what comes of it five times a second."""


class Site(BaseHTTPRequestHandler):
    """Answers as the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/good.mp4":
            self._send(200, VIDEO)
        elif path == "/empty.mp4":
            self._send(200, b"")
        elif path == "/short.mp4":
            self._send(200, VIDEO[:1000], length=len(VIDEO))
        elif path == "/moved.mp4":
            self._send(302, b"", location="/good.mp4")
        elif path == "/inward.mp4":
            self._send(302, b"", location="http://169.254.169.254/latest/meta-data/")
        elif path == "/file.mp4":
            self._send(302, b"", location="file:///etc/passwd")
        elif path == "/loop.mp4":
            self._send(302, b"", location="/loop.mp4")
        elif path in DRIPPING:
            self._drip(*DRIPPING[path])
        elif path == "/unsaid.mp4":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + VIDEO * 20)
            self.close_connection = True
        elif path == "/huge.mp4":
            self._send(200, b"the beginning", length=5 * 1024**3)
        else:
            self._send(*{"/choices.mp4": (300, b""), "/broken.mp4": (503, b"later")}.get(path, (404, b"no")))

    def _drip(self, beginning: bytes, drop: bytes) -> None:
        self.close_connection = True
        with suppress(OSError):  # the other side hangs up
            self.wfile.write(beginning)
            for _ in range(100):
                self.wfile.write(drop)
                time.sleep(0.2)

    def _send(self, status: int, body: bytes, *, length: int | None = None, location: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def open_policy() -> IngestPolicy:
    return IngestPolicy(
        allow_private_addresses=True, expected_outputs_ratio=0, largest_source_gib=1, source_buckets="partner, videos"
    )


def test_urls_go_through_temp(catalog: CatalogDatabase, location: OpenLocation, open_policy, acme, site) -> None:  # type: ignore[no-untyped-def]
    report = ingest_videos(
        catalog, location, open_policy, api_key=acme,
        sources=[
            f"{site}/{name}.mp4"
            for name in ("good", "empty", "short", "moved", "loop", "choices", "huge", "broken", "absent")
        ],
    )  # fmt: skip
    by_name = {outcome.source.rpartition("/")[2]: outcome for outcome in report.outcomes}
    same = [by_name["good.mp4"], by_name["moved.mp4"]]
    assert sorted(outcome.result for outcome in same) == ["duplicate", "ingested"]
    assert {outcome.sha256 for outcome in same} == {sha256(VIDEO)}
    assert "is empty" in by_name["empty.mp4"].error
    assert by_name["short.mp4"].result == "failed", "a broken transfer may work later"
    assert "redirects more than" in by_name["loop.mp4"].error
    assert "choices.mp4' answered 300" in by_name["choices.mp4"].error, "the site's answer, not the store's"
    assert "huge.mp4' has 5368709120 bytes, more than the policy allows" in by_name["huge.mp4"].error
    assert (by_name["broken.mp4"].result, by_name["absent.mp4"].result) == ("failed", "refused")
    assert stored_keys(location, "temp") == [], "nothing waits under temp/ afterwards"
    assert len(stored_keys(location)) == 1
    assert_sound(catalog, location)


@pytest.mark.parametrize("what", ["dripping", "greeting", "interim", "framing"])
def test_a_byte_now_and_then_is_given_up(
    location: OpenLocation, open_policy: IngestPolicy, site: str, what: str
) -> None:
    """A source that never falls silent would keep its run for ever: in its body, its headers, answers before the
    answer, or what says how long the next piece is."""
    patient = open_policy.model_copy(update={"url_timeout_seconds": 1})
    started = time.monotonic()
    with pytest.raises(SourceUnavailableError, match="less than 16 KiB a second"):
        fetch(location, patient, f"{site}/{what}.mp4")
    assert time.monotonic() - started < 10
    assert stored_keys(location, "temp") == []


def test_a_host_with_an_address_that_does_not_answer(location, open_policy, site, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Such as a host with an IPv6 address on a line without: the next one is tried, as every client does."""
    port = int(site.rpartition(":")[2])
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("127.0.0.2", "127.0.0.1")]
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: there if host == "two.example" else found(host, *a, **k)
    )
    assert fetch(location, open_policy, f"http://two.example:{port}/good.mp4").sha256 == sha256(VIDEO)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: there[:1])
    with pytest.raises(SourceUnavailableError, match="refused"):
        fetch(location, open_policy, f"http://two.example:{port}/good.mp4")


def test_addresses_of_both_kinds_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of a host's addresses as are tried: not all of them of the kind that this line lacks."""
    six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"2606:4700::{n}", 443, 0, 0)) for n in range(8)]
    four = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"1.1.1.{n}", 443)) for n in range(3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*six, *four])
    found = tasks.intake.fetching._checked_addresses("cdn.example", 443, IngestPolicy())
    assert found == ["2606:4700::0", "1.1.1.0", "2606:4700::1", "1.1.1.1"]


def test_all_addresses_of_a_host_share_the_time(location, open_policy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Where the time is over, whoever watches over slow answers may have gone: no other address is asked."""
    patient, asked = open_policy.model_copy(update={"url_timeout_seconds": 1}), []

    def connect(address: tuple[str, int], *_: object, **__: object) -> None:
        asked.append(address[0])
        time.sleep(0.7)
        raise ConnectionRefusedError("it never answered")

    monkeypatch.setattr(socket, "create_connection", connect)
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 9)) for n in (2, 3, 4, 5)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    with pytest.raises(SourceUnavailableError):
        fetch(location, patient, "http://slow.example:9/a.mp4")
    assert asked == ["127.0.0.2", "127.0.0.3"]


def test_a_url_that_is_signed_anew_is_the_same_place(catalog, location, open_policy, acme, site) -> None:  # type: ignore[no-untyped-def]
    """A video that a partner's feed names again each night is stored once, and was never saved from being stored."""
    for night in range(3):
        url = f"{site}/good.mp4?X-Amz-Date={night}&X-Amz-Signature={night:064x}"
        assert not ingest_videos(catalog, location, open_policy, api_key=acme, sources=[url]).unsuccessful
    assert one(catalog, "SELECT count(DISTINCT source) FROM source_hits") == 1
    url = f"{site.replace('127.0.0.1', 'localhost')}/good.mp4"
    assert not ingest_videos(catalog, location, open_policy, api_key=acme, sources=[url]).unsuccessful
    assert one(catalog, "SELECT count(DISTINCT source) FROM source_hits") == 2


def test_urls_share_the_memory_there_is(location, open_policy, site, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    under_way, most = set(), 0
    sent = tasks.intake.fetching.put_stream

    def counted(store, key, *arguments, **options):  # type: ignore[no-untyped-def]
        nonlocal most
        under_way.add(key)
        most = max(most, len(under_way))
        time.sleep(0.05)
        try:
            return sent(store, key, *arguments, **options)
        finally:
            under_way.remove(key)

    monkeypatch.setattr(tasks.intake.fetching, "put_stream", counted)
    monkeypatch.setattr(tasks.intake.fetching, "FETCHED_AT_ONCE", Budget(2 * len(VIDEO)))
    found = in_parallel(lambda _: fetch(location, open_policy, f"{site}/good.mp4").sha256, range(6), threads=6)
    assert set(found) == {sha256(VIDEO)}
    assert most == 2


def test_a_known_url_sends_nothing_on(catalog, location, open_policy, acme, site) -> None:  # type: ignore[no-untyped-def]
    for expected in ("ingested", "duplicate"):
        report = ingest_videos(catalog, location, open_policy, api_key=acme, sources=[f"{site}/good.mp4"])
        assert report.counts == {expected: 1}
    assert report.sent_bytes == 0


def test_a_wrong_expected_hash_of_a_url(catalog, location, open_policy, acme, site) -> None:  # type: ignore[no-untyped-def]
    report = ingest_videos(
        catalog, location, open_policy, api_key=acme, sources=[f"{site}/good.mp4"],
        expected_sha256={f"{site}/good.mp4": "0" * 64},
    )  # fmt: skip
    assert "expected was 0000" in report.unsuccessful[0].error
    assert stored_keys(location, "temp") == stored_keys(location) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.mp4", "http://localhost:1/x.mp4", "http://[::1]/x.mp4", "http://0.0.0.0/x.mp4",
        "http://10.1.2.3/x.mp4", "http://192.168.1.1/x.mp4", "http://169.254.169.254/x.mp4",
        "http://[::ffff:127.0.0.1]/x.mp4", "http://[fd00::1]/x.mp4", "http://[2002:7f00:1::]/x.mp4",
        "http://2130706433/x.mp4", "http://0x7f.1/x.mp4", "http://[64:ff9b::a9fe:a9fe]/x.mp4",
        "http://[fec0::1]/x.mp4", "http://192.0.0.8/x.mp4", "http://[3fff::1]/x.mp4", "http://[5f00::1]/x.mp4",
        "http://[64:ff9b:1::a00:1]/x.mp4", "http://[::7f00:1]/x.mp4", "http://[::ffff:0:7f00:1]/x.mp4",
    ],
)  # fmt: skip
def test_private_addresses_are_never_asked(location: OpenLocation, url: str) -> None:
    with pytest.raises(RefusedError, match="private address"):
        fetch(location, IngestPolicy(), url)


def test_a_redirect_inward_is_refused(location: OpenLocation, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The site itself counts as public here, as one on the internet would; where it points to is judged for real.
    real = tasks.intake.fetching._is_public
    monkeypatch.setattr(tasks.intake.fetching, "_is_public", lambda address: address == "127.0.0.1" or real(address))
    with pytest.raises(RefusedError, match="169.254.169.254"):
        fetch(location, IngestPolicy(), f"{site}/inward.mp4")
    with pytest.raises(RefusedError, match="the scheme file is not allowed"):
        fetch(location, IngestPolicy(), f"{site}/file.mp4")


@pytest.mark.parametrize("url", ["ftp://host/x.mp4", "gopher://host/x", "file:///etc/passwd", "data:,x", "http:///x"])
def test_schemes_and_nonsense(url: str) -> None:
    with pytest.raises((RefusedError, InvalidInputError)):
        check_url(url, IngestPolicy())


def test_credentials_in_urls_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="credentials") as caught:
        check_url("https://user:hunter2@host/x.mp4", IngestPolicy())
    assert "hunter2" not in str(caught.value)


def test_sources_from_another_bucket(catalog, location, open_policy, acme) -> None:  # type: ignore[no-untyped-def]
    s3 = location.store.s3
    s3.create_bucket(Bucket="partner")
    s3.put_object(Bucket="partner", Key="in/one film.mp4", Body=VIDEO)
    report = ingest_videos(
        catalog, location, open_policy, api_key=acme,
        sources=["s3://partner/in/one film.mp4", "s3://partner/absent.mp4", "s3://videos/processed/x.mp4",
                 "s3://backups/a/catalog.dump.zst", "s3://Partner/in/one film.mp4"],
    )  # fmt: skip
    errors = {outcome.source: outcome.error for outcome in report.unsuccessful}
    assert report.counts == {"ingested": 1, "refused": 4}
    for elsewhere in ("s3://backups/a/catalog.dump.zst", "s3://Partner/in/one film.mp4"):
        assert "lies in no source bucket (partner, videos); add one to source_buckets" in errors[elsewhere]
    assert "no such object" in errors["s3://partner/absent.mp4"]
    assert "own bucket" in errors["s3://videos/processed/x.mp4"]


def test_a_key_is_taken_as_it_is_written(catalog, location, open_policy, acme) -> None:  # type: ignore[no-untyped-def]
    """`#` and `?` end a path elsewhere: another object's bytes would come in under this name."""
    s3 = location.store.s3
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket="partner")
    names = ["a.mp4", "a.mp4#2.mp4", "a.mp4?b=c.mp4", "a%20b.mp4"]
    for name in names:
        s3.put_object(Bucket="partner", Key=f"odd/{name}", Body=name.encode())
    report = ingest_videos(
        catalog, location, open_policy, api_key=acme, sources=[f"s3://partner/odd/{name}" for name in names]
    )
    assert [outcome.sha256 for outcome in report.outcomes] == [sha256(name.encode()) for name in names]
    assert [outcome.filename for outcome in report.outcomes] == names


def test_a_source_that_does_not_say_how_large_it_is(
    location: OpenLocation, open_policy: IngestPolicy, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 ends at 10,000 parts, and a part's size is chosen before the first."""
    monkeypatch.setattr("tasks.intake.fetching.MOST_PARTS", 2)
    small = replace(location, store=location.store.model_copy(update={"multipart_upload_part_bytes": 5 * 1024**2}))
    with pytest.raises(RefusedError, match="did not say how large it is"):
        fetch(small, open_policy, f"{site}/unsaid.mp4")
    monkeypatch.undo()
    assert fetch(small, open_policy, f"{site}/unsaid.mp4").sha256 == sha256(VIDEO * 20)


def test_file_urls_only_below_a_root(catalog, location, acme, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a b.mp4").write_bytes(b"x")
    policy = IngestPolicy(source_roots=str(tmp_path), url_schemes="file", expected_outputs_ratio=0)
    report = ingest_videos(
        catalog, location, policy, api_key=acme, sources=[f"file://{tmp_path}/a%20b.mp4", "file:///etc/passwd"]
    )
    assert report.counts == {"ingested": 1, "refused": 1}
    report = ingest_videos(catalog, location, IngestPolicy(), api_key=acme, sources=["file:///etc/passwd"])
    assert "allows no file://" in report.unsuccessful[0].error


def test_urls_that_no_parser_takes(catalog, location, acme) -> None:  # type: ignore[no-untyped-def]
    hostile = [
        "http://h:abc/x.mp4",
        "http://xn--a/x.mp4",
        "http://[/x.mp4",
        "http://h/\ud800.mp4",
        "https://h/" + "x" * 70_000,
    ]
    report = ingest_videos(catalog, location, IngestPolicy(), api_key=acme, sources=hostile)
    assert len(report.unsuccessful) == len(hostile)
    assert stored_keys(location, "temp") == []


def test_a_source_whose_server_does_not_answer_is_for_another_time(
    catalog, location, open_policy, acme, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    """s3fs says so in botocore's words, and only where it opens; the others of the run come in."""
    away = location.store.model_copy(update={"endpoint_url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(SourceUnavailableError, match="could not be read"):
        fetch(replace(location, store=away), open_policy, "s3://partner/in/one film.mp4")


def test_a_bucket_that_another_catalog_took_over_gets_nothing_of_a_url(  # type: ignore[no-untyped-def]
    catalog, location, open_policy, acme, monkeypatch
) -> None:
    put_bytes(location.store, IDENTITY_KEY, b"00000000-0000-0000-0000-000000000000 1\n", {})
    monkeypatch.setattr(ownership, "LOOKED_AT_FOR_SECONDS", 0)
    written: list[str] = []
    monkeypatch.setattr(fetching, "put_stream", lambda _, key, *__, **___: written.append(key))
    (outcome,) = ingest_videos(catalog, location, open_policy, api_key=acme, sources=["http://127.0.0.1:9/a"]).outcomes
    assert (outcome.result, written) == ("refused", [])
    assert "belongs to catalog" in outcome.error


@pytest.mark.parametrize("url", ["https://user:hunter2/secret@host/v.mp4", "https://user:hunter\u21002@host/v.mp4"])
def test_what_a_parser_repeats_of_a_password_is_not_told(catalog, location, open_policy, acme, url: str) -> None:  # type: ignore[no-untyped-def]
    (outcome,) = ingest_videos(catalog, location, open_policy, api_key=acme, sources=[url]).outcomes
    assert outcome.result == "refused"
    assert "is no URL" in outcome.error
    assert "hunter" not in f"{outcome.error} {outcome.source}"

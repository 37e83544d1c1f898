"""What customers get: URLs that open one object for a while, and forms that take one file of one size."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_folders, list_prefix
from blocks.object_store.presigning import UploadForm, presign_get, presign_many, presign_post
from blocks.object_store.transfer import exists, put_bytes, read_bytes
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.stores import Locations, OpenLocation
from tests.contract.asking import LEGAL
from tests.contract.servers import Server
from tests.helpers import assert_sound, one

MINUTE = timedelta(minutes=1)


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=30)


def post(form: UploadForm, content: bytes) -> int:
    return httpx.post(form.url, data=form.fields, files={"file": content}, timeout=30).status_code


def test_a_url_opens_one_object(store: ObjectStore, does: Callable[[str], bool]) -> None:
    put_bytes(store, "a/film.mp4", b"a film", {"Content-Type": "video/mp4"})
    put_bytes(store, "a/other.mp4", b"not for you", {})
    (many,) = presign_many(store, ["a/film.mp4"], MINUTE)
    for url in (presign_get(store, "a/film.mp4", MINUTE), many):
        answer = get(url)
        assert (answer.status_code, answer.content) == (200, b"a film")
        assert answer.headers["content-type"] == "video/mp4"
        part = httpx.get(url, headers={"Range": "bytes=2-3"}, timeout=30)
        assert (part.status_code, part.content) == (206 if does("answers_ranges") else 200, b"fi")
        for altered in (
            url.replace("film.mp4", "other.mp4"),
            url.replace("Expires=60", "Expires=600"),
            url.partition("?")[0],
            url[:-1] + ("0" if url[-1] != "0" else "1"),
        ):
            assert altered != url
            assert get(altered).status_code in (400, 401, 403), altered
        assert httpx.put(url, content=b"mine now", timeout=30).status_code in (400, 401, 403)
        assert httpx.delete(url, timeout=30).status_code in (400, 401, 403)
    assert read_bytes(store, "a/film.mp4", at_most=6) == b"a film"
    assert get(presign_get(store, "a/none", MINUTE)).status_code == 404
    assert presign_many(store, [], MINUTE) == []


def test_a_url_ends(store: ObjectStore) -> None:
    put_bytes(store, "k", b"x", {})
    second = timedelta(seconds=1)
    urls = [presign_get(store, "k", second), *presign_many(store, ["k"], second)]
    # Seconds are whole in a signature: it ends up to one second late.
    time.sleep(2.1)
    assert all(get(url).status_code in (400, 401, 403) for url in urls)


@pytest.mark.parametrize("filename", ["a film.mp4", 'été 🎬 "2".mp4', "a%b+c&d=e;f.mp4"])
def test_a_name_to_save_under(store: ObjectStore, does: Callable[[str], bool], filename: str) -> None:
    put_bytes(store, "k", b"x", {})
    answer = get(presign_get(store, "k", MINUTE, filename=filename))
    assert answer.content == b"x"
    if does("presigned_filename"):
        assert answer.headers["content-disposition"].startswith('attachment; filename="')
        assert "filename*=UTF-8''" in answer.headers["content-disposition"]


def test_an_encoding_to_decode(store: ObjectStore, does: Callable[[str], bool]) -> None:
    put_bytes(store, "k", b"raw", {})
    with httpx.stream("GET", presign_get(store, "k", MINUTE, encoding="zstd"), timeout=30) as answer:
        assert b"".join(answer.iter_raw()) == b"raw"
        assert (answer.headers.get("content-encoding") == "zstd") == does("presigned_encoding")


@pytest.mark.parametrize("key", LEGAL)
def test_odd_keys(store: ObjectStore, key: str) -> None:
    put_bytes(store, key, key.encode(), {})
    for url in (presign_get(store, key, MINUTE), *presign_many(store, [key], MINUTE)):
        answer = get(url)
        assert (answer.status_code, answer.content) == (200, key.encode()), answer.text


@pytest.mark.parametrize("prefix", ["ünï 🎬", "a+b & c=d %41", "a'b(c)!"])
def test_odd_prefixes(server: Server, prefix: str) -> None:
    store = server.store(f"{uuid4()}/{prefix}")
    put_bytes(store, "a/x", b"x", {})
    assert [listed.key for listed in list_prefix(store, "")] == ["a/x"]
    assert list_folders(store) == ["a"]
    for url in (presign_get(store, "a/x", MINUTE), *presign_many(store, ["a/x"], MINUTE)):
        assert get(url).content == b"x"
    assert delete_keys(store, ["a/x"]) == {}
    assert list(list_prefix(store, "")) == []


def test_a_form_takes_one_file_of_one_size(store: ObjectStore, does: Callable[[str], bool]) -> None:
    form = presign_post(store, "temp/a/blob", size_bytes=10, expires_in=MINUTE)
    assert "Policy" not in repr(form)
    if not does("post_form"):
        # Not half of it: nothing arrives by a form, and the next test sees that nobody is given one.
        assert post(form, b"1234567890") >= 400
        assert not exists(store, "temp/a/blob")
        return
    for content in (b"123456789", b"12345678901", b""):
        assert post(form, content) >= 400
        assert not exists(store, "temp/a/blob")
    elsewhere = UploadForm(form.url, form.fields | {"key": store.path("temp/b/blob")})
    assert post(elsewhere, b"1234567890") >= 400
    assert not exists(store, "temp/b/blob")
    assert post(form, b"1234567890") in (200, 201, 204)
    assert read_bytes(store, "temp/a/blob", at_most=10) == b"1234567890"


def test_a_customers_upload(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str, does: Callable[[str], bool]
) -> None:
    content = b"sent by the customer"

    def issue() -> UploadForm:
        issued = issue_upload_url(
            catalog, location, AccessPolicy(), policy, api_key=acme, filename="a.mp4", size_bytes=len(content)
        )
        assert post(issued.form, content) < 300
        locations = Locations(catalog, location)
        outcome = complete_upload(catalog, locations, policy, api_key=acme, upload_id=issued.upload_id)
        assert outcome.succeeded, outcome.error
        # A form stays good until it ends: it must not reach what was taken in.
        assert post(issued.form, content[::-1]) < 300
        return issued.form

    if does("post_form"):
        issue()
        assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 1
    else:
        told = f"bucket {location.store.bucket} takes no upload forms: this server does not do it .*ingest-videos"
        with pytest.raises(RefusedError, match=told):
            issue()
        assert one(catalog, "SELECT sum(storage_reserved_bytes) FROM api_keys") == 0, "no quota is held for it"
    delete_keys(location.store, [listed.key for listed in list_prefix(location.store, "temp")])
    assert_sound(catalog, location)

"""Presigned URLs and forms that somebody changed, or kept for too long.

Another key, another end, a cut signature, PUT and DELETE with a URL for reading, and a form for another key or another
size are in tests/contract/test_presigning.py, for every kind of server. Here is what is left.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from blocks.object_store import ObjectStore
from blocks.object_store.presigning import UploadForm, presign_get, presign_many, presign_post
from blocks.object_store.transfer import exists, put_bytes

MINUTE = timedelta(minutes=1)
NO = (400, 401, 403)


def with_query(url: str, change: Callable[[dict[str, str]], None]) -> str:
    """The URL with a part of its query changed, which is signed."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    change(query)
    return urlunsplit(parts._replace(query=urlencode(query)))


ALTERED: dict[str, Callable[[dict[str, str]], None]] = {
    "a later date": lambda query: query.update({"X-Amz-Date": "20990101T000000Z"}),
    "no end": lambda query: query.pop("X-Amz-Expires") and None,
    "an end in a hundred years": lambda query: query.update({"X-Amz-Expires": str(36_500 * 86_400)}),
    "an end before its beginning": lambda query: query.update({"X-Amz-Expires": "-60"}),
    "somebody else's key": lambda query: query.update(
        {"X-Amz-Credential": "stranger/" + query["X-Amz-Credential"].partition("/")[2]}
    ),
    "another region": lambda query: query.update(
        {"X-Amz-Credential": query["X-Amz-Credential"].replace("us-east-1", "eu-west-1")}
    ),
    "no signature": lambda query: query.pop("X-Amz-Signature") and None,
    "an empty signature": lambda query: query.update({"X-Amz-Signature": ""}),
    "a signature of zeros": lambda query: query.update({"X-Amz-Signature": "0" * 64}),
    "fewer signed headers": lambda query: query.update({"X-Amz-SignedHeaders": ""}),
    "another name to save under": lambda query: query.update({"response-content-disposition": "inline"}),
    "a type that runs scripts": lambda query: query.update({"response-content-type": "text/html"}),
    "no algorithm": lambda query: query.update({"X-Amz-Algorithm": "none"}),
}  # fmt: skip


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_url_opens_nothing(store: ObjectStore, change: str) -> None:
    put_bytes(store, "a/film.mp4", b"a film", {})
    for url in (presign_get(store, "a/film.mp4", MINUTE), *presign_many(store, ["a/film.mp4"], MINUTE)):
        assert httpx.get(with_query(url, lambda _: None)).content == b"a film", "whoever changes nothing is let in"
        answer = httpx.get(with_query(url, ALTERED[change]))
        assert answer.status_code in NO, answer.status_code
        assert b"a film" not in answer.content


def test_a_url_is_for_its_host_and_for_reading(store: ObjectStore) -> None:
    put_bytes(store, "a/film.mp4", b"a film", {})
    url = presign_get(store, "a/film.mp4", MINUTE)
    assert httpx.get(url, headers={"Host": "elsewhere.example"}).status_code in NO
    for method in ("HEAD", "POST", "PUT", "DELETE"):
        assert httpx.request(method, url).status_code in (*NO, 405), method
    for more in ("&acl", "&tagging", "&uploads", "&versionId=1"):
        assert httpx.get(url + more).status_code in NO, more
    assert exists(store, "a/film.mp4")


def post(form: UploadForm, **changed: str) -> int:
    """Send ten bytes with a form of which some fields were changed."""
    return httpx.post(form.url, data=form.fields | changed, files={"file": b"1234567890"}).status_code


def test_an_altered_form_takes_nothing(store: ObjectStore) -> None:
    form = presign_post(store, "temp/a/blob", size_bytes=10, expires_in=MINUTE)
    fields = {name.lower(): name for name in form.fields}
    policy = json.loads(base64.b64decode(form.fields[fields["policy"]]))
    longer = base64.b64encode(json.dumps(policy | {"expiration": "2099-01-01T00:00:00Z"}).encode()).decode()
    anything = base64.b64encode(json.dumps(policy | {"conditions": []}).encode()).decode()
    signature = form.fields[fields["x-amz-signature"]]
    for changed in (
        {fields["policy"]: longer}, {fields["policy"]: anything}, {fields["policy"]: ""},
        {fields["x-amz-signature"]: ""}, {fields["x-amz-signature"]: "0" * 64},
        {fields["x-amz-signature"]: signature[:-1] + ("0" if signature[-1] != "0" else "1")},
        {fields["x-amz-credential"]: "stranger/20260101/us-east-1/s3/aws4_request"},
    ):  # fmt: skip
        assert post(form, **changed) >= 400, changed
        assert not exists(store, "temp/a/blob")
    assert post(form) < 300, "unchanged it does"


def test_a_form_ends(store: ObjectStore) -> None:
    form = presign_post(store, "temp/b/blob", size_bytes=10, expires_in=timedelta(seconds=1))
    # Seconds are whole in a form: it ends up to one second late.
    time.sleep(2.1)
    assert post(form) in NO
    assert not exists(store, "temp/b/blob")

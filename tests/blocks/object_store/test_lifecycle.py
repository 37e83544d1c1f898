"""A bucket's rules and incomplete uploads against a real server, whose configuration others write too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from blocks.embedded import Endpoints
from blocks.errors import NotFoundError, OvertakenError, RefusedError, StoreUnavailableError, UnfitStoreError
from blocks.object_store import ObjectStore, lifecycle
from blocks.object_store.lifecycle import (
    due_at,
    expires_under,
    name_of,
    own_name,
    read_rules,
    rule_id,
    same_rule,
    write_rules,
)
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads, uploaded_bytes
from blocks.object_store.trials import TRIALS
from tests.conftest import make_store

# With an element that boto3 has no name for, in an order and with white space of its own.
VENDOR_RULE = (
    b"<Rule>\n  <Status>Enabled</Status><ID>theirs &amp; \xc3\xbc</ID>"
    b"<Filter><Prefix>logs/</Prefix></Filter><VendorsOwn kind='x'>7</VendorsOwn>"
    b"<Expiration><Days>30</Days></Expiration></Rule>"
)
OUR_RULE = (
    b"<Rule><ID>ours</ID><Status>Enabled</Status><Filter><Prefix>a/temp/</Prefix></Filter>"
    b"<Expiration><Days>1</Days></Expiration></Rule>"
)


@pytest.fixture
def own(endpoints: Endpoints, bucket: str) -> ObjectStore:
    """A store in a bucket of its own: rules are a property of the bucket."""
    store = make_store(endpoints, prefix="a", bucket=f"rules-{uuid4()}")
    store.s3.create_bucket(Bucket=store.bucket)
    return store


def rule(identifier: str | None, prefix: str = "a/temp/", **does: Any) -> dict[str, Any]:
    named = {"ID": identifier} if identifier else {}
    return named | {"Status": "Enabled", "Filter": {"Prefix": prefix}} | (does or {"Expiration": {"Days": 1}})


def raw(store: ObjectStore) -> bytes:
    """The configuration as it goes over the wire."""
    url = store.s3.generate_presigned_url("get_bucket_lifecycle_configuration", Params={"Bucket": store.bucket})
    return httpx.get(url, timeout=30).content


def put_raw(store: ObjectStore, *rules: bytes) -> None:
    body = b"<LifecycleConfiguration>" + b"".join(rules) + b"</LifecycleConfiguration>"
    request = AWSRequest(method="PUT", url=f"{store.endpoint_url}/{store.bucket}?lifecycle=", data=body)
    S3SigV4Auth(store.keys, "s3", store.region).add_auth(request)
    prepared = request.prepare()
    httpx.put(prepared.url, content=body, headers=dict(prepared.headers.items()), timeout=30).raise_for_status()


def on_write(store: ObjectStore, does: Callable[[], None]) -> Callable[[], None]:
    """Let another writer come right after our next write; answers what ends it."""

    def once(**_: Any) -> None:
        end()
        does()

    def end() -> None:
        store.s3.meta.events.unregister("after-call.s3.PutBucketLifecycleConfiguration", once)

    store.s3.meta.events.register("after-call.s3.PutBucketLifecycleConfiguration", once)
    return end


def test_no_rules_are_read_and_removed(own: ObjectStore) -> None:
    assert read_rules(own) == []
    write_rules(own, [rule("one")])
    assert [one["ID"] for one in read_rules(own)] == ["one"]
    write_rules(own, [])
    assert read_rules(own) == []
    assert b"NoSuchLifecycleConfiguration" in raw(own)


def test_a_bucket_that_is_not_there(own: ObjectStore) -> None:
    gone = own.model_copy(update={"bucket": f"not-there-{uuid4()}"})
    with pytest.raises(NotFoundError, match="reading the lifecycle rules"):
        read_rules(gone)
    with pytest.raises(NotFoundError):
        write_rules(gone, [rule("one")])


def test_others_rules_stay_byte_for_byte(own: ObjectStore) -> None:
    put_raw(own, VENDOR_RULE)
    (theirs,) = read_rules(own)
    assert "VendorsOwn" not in theirs, "boto3 does not know it, and would drop it"
    write_rules(own, [rule("before"), theirs, rule("after")])
    assert VENDOR_RULE in raw(own)
    assert [one["ID"] for one in read_rules(own)] == ["before", "theirs & ü", "after"]
    write_rules(own, [theirs])
    assert VENDOR_RULE in raw(own)


def test_equal_rules_are_not_written(own: ObjectStore) -> None:
    write_rules(own, [rule("one")])
    before = raw(own)
    written: list[int] = []
    end = on_write(own, lambda: written.append(1))
    write_rules(own, read_rules(own))
    end()
    assert written == []
    assert raw(own) == before


def test_the_setting_beside_the_rules_stays(own: ObjectStore) -> None:
    own.s3.put_bucket_lifecycle_configuration(
        Bucket=own.bucket,
        LifecycleConfiguration={"Rules": [rule("one")]},  # type: ignore[typeddict-item]  # as boto3 gives them
        TransitionDefaultMinimumObjectSize="varies_by_storage_class",
    )
    write_rules(own, [rule("one"), rule("two")])
    answer = own.s3.get_bucket_lifecycle_configuration(Bucket=own.bucket)
    assert answer["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"


def test_rules_that_changed_since_they_were_read_are_not_overwritten(own: ObjectStore) -> None:
    put_raw(own, VENDOR_RULE)
    with pytest.raises(OvertakenError, match="nothing was written"):
        write_rules(own, [rule("ours")], former=[])
    assert [one["ID"] for one in read_rules(own)] == ["theirs & ü"]


def test_a_writer_right_after_ours_keeps_its_rules(own: ObjectStore) -> None:
    end = on_write(own, lambda: put_raw(own, VENDOR_RULE))
    with pytest.raises(OvertakenError, match="at the same time"):
        write_rules(own, [rule("ours")])
    end()
    assert [one["ID"] for one in read_rules(own)] == ["theirs & ü"]


def test_forgotten_rules_are_noticed_and_the_former_ones_put_back(
    own: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "READ_AGAIN_SECONDS", (0.01,))
    put_raw(own, VENDOR_RULE)
    (theirs,) = read_rules(own)
    # What a server leaves that forgets one of three.
    end = on_write(own, lambda: put_raw(own, VENDOR_RULE, OUR_RULE))
    with pytest.raises(UnfitStoreError, match="does not give back lost.*put back"):
        write_rules(own, [theirs, rule("ours"), rule("lost")])
    end()
    assert VENDOR_RULE in raw(own)
    assert read_rules(own) == [theirs]


def test_a_server_that_forgets_everything_is_not_asked_to_remove_it(
    own: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that knows no `?lifecycle` would remove the bucket: rclone does, where it is empty."""
    monkeypatch.setattr(lifecycle, "READ_AGAIN_SECONDS", (0.01,))
    asked: list[int] = []
    end = on_write(own, lambda: own.s3.delete_bucket_lifecycle(Bucket=own.bucket) and None)
    own.s3.meta.events.register("before-call.s3.DeleteBucketLifecycle", lambda **_: asked.append(1), unique_id="asked")
    with pytest.raises(UnfitStoreError, match="does not give back lost"):
        write_rules(own, [rule("lost")])
    own.s3.meta.events.unregister("before-call.s3.DeleteBucketLifecycle", unique_id="asked")
    end()
    assert len(asked) == 1, "the one that this test made"


def test_a_rule_that_the_server_does_not_do(own: ObjectStore) -> None:
    write_rules(own, [rule("one")])
    moves = rule("moves", Transitions=[{"Days": 30, "StorageClass": "STANDARD_IA"}])
    with pytest.raises(RefusedError, match=r"\(moves\): nothing was changed; run the flow probe-store"):
        write_rules(own, [*read_rules(own), moves])
    assert [one["ID"] for one in read_rules(own)] == ["one"]


def test_a_probe_leaves_the_rules_as_they_are(own: ObjectStore) -> None:
    put_raw(own, VENDOR_RULE)
    before = raw(own)
    assert TRIALS["expiration_rules"](own, "probe/x") is None
    assert TRIALS["multipart_rules"](own, "probe/x") is None
    with pytest.raises(RefusedError):
        TRIALS["transition_rules"](own, "probe/x")
    assert VENDOR_RULE in raw(own)
    assert len(read_rules(own)) == 1
    # A probe that was killed here once is cleaned up after.
    write_rules(own, [*read_rules(own), rule("transcode-flow-probe")])
    assert TRIALS["expiration_rules"](own, "probe/x") is None
    assert raw(own).count(b"<ID>") == before.count(b"<ID>")


@pytest.mark.parametrize(
    "written",
    [
        {"Prefix": "a/temp/", "Status": "Enabled", "Expiration": {"Days": 1}},
        {"Expiration": {"Days": 1}, "Status": "Enabled", "Filter": {"And": {"Prefix": "a/temp/", "Tags": []}}},
        rule(None, Expiration={"Days": 1, "ExpiredObjectDeleteMarker": False}) | {"Prefix": ""},
        rule(None, Expiration={"Days": 1}, Transitions=[], NoncurrentVersionTransitions=[]),
    ],
)
def test_rules_that_mean_the_same(written: dict[str, Any]) -> None:
    assert same_rule(written, rule("any"))


@pytest.mark.parametrize(
    "written",
    [
        rule("any") | {"Status": "Disabled"},
        rule("any", prefix="a/temp"),
        rule("any", Expiration={"Days": 2}),
        rule("any", Expiration={"Days": 1}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}),
        rule("any") | {"Filter": {"And": {"Prefix": "a/temp/", "Tags": [{"Key": "k", "Value": "v"}]}}},
        rule("any") | {"Filter": {"And": {"Prefix": "a/temp/", "ObjectSizeGreaterThan": 5}}},
    ],
)
def test_rules_that_do_not(written: dict[str, Any]) -> None:
    assert not same_rule(written, rule("any"))


def test_whose_rule_it_is() -> None:
    assert own_name({"ID": rule_id("", "temp_days")}, "") == "temp_days"
    assert own_name({"ID": rule_id("a/b", "temp_days")}, "a/b") == "temp_days"
    for other in ("", "a", "a/b:c"):
        assert own_name({"ID": rule_id("a/b", "temp_days")}, other) is None
    assert own_name({"ID": rule_id("a:b", "temp_days")}, "a") is None
    assert own_name({}, "") is None
    long = "x" * 900
    assert len(rule_id(long, "transition_days")) < 255
    assert own_name({"ID": rule_id(long, "temp_days")}, long) == "temp_days"
    assert name_of({"Prefix": "x/"}) == "a rule without ID for x/"


def test_rules_that_reach_what_is_kept() -> None:
    assert expires_under(rule("x", prefix=""), "a/processed/")
    assert expires_under(rule("x", prefix="a/proc"), "a/processed/")
    assert expires_under(rule("x", prefix="a/processed/1/"), "a/processed/")
    assert not expires_under(rule("x", prefix="a/temp/"), "a/processed/")
    assert not expires_under(rule("x", prefix="") | {"Status": "Disabled"}, "a/processed/")
    assert not expires_under(rule("x", prefix="", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}), "a/")


@pytest.mark.parametrize(
    ("written_at", "days", "due"),
    [
        # AWS's own example: three days after 15 January, half past ten.
        (datetime(2014, 1, 15, 10, 30, tzinfo=UTC), 3, datetime(2014, 1, 19, tzinfo=UTC)),
        (datetime(2026, 1, 15, tzinfo=UTC), 1, datetime(2026, 1, 16, tzinfo=UTC)),
        (datetime(2026, 1, 15, 0, 0, 0, 1, tzinfo=UTC), 1, datetime(2026, 1, 17, tzinfo=UTC)),
        (datetime(2026, 1, 15, 23, 59, 59, tzinfo=UTC), 0, datetime(2026, 1, 16, tzinfo=UTC)),
        (datetime(2028, 2, 28, 12, tzinfo=UTC), 1, datetime(2028, 3, 1, tzinfo=UTC)),
        (datetime(2028, 2, 28, tzinfo=UTC), 1, datetime(2028, 2, 29, tzinfo=UTC)),
        (datetime(2026, 2, 28, tzinfo=UTC), 1, datetime(2026, 3, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 1, tzinfo=UTC), 1, datetime(2027, 1, 2, tzinfo=UTC)),
        # Midnight is UTC's, in whatever zone the time was told.
        (datetime(2026, 6, 1, 1, tzinfo=timezone(timedelta(hours=2))), 1, datetime(2026, 6, 2, tzinfo=UTC)),
        (datetime(2026, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))), 1, datetime(2026, 6, 2, tzinfo=UTC)),
        (datetime(2026, 6, 1, 3, tzinfo=timezone(timedelta(hours=2))), 1, datetime(2026, 6, 3, tzinfo=UTC)),
    ],
)
def test_when_a_rule_is_due(written_at: datetime, days: int, due: datetime) -> None:
    assert due_at(written_at, days) == due
    assert due_at(written_at, days).utcoffset() == timedelta()


@pytest.mark.parametrize("prefix", ["a", ""])
def test_incomplete_uploads_over_many_pages(endpoints: Endpoints, own: ObjectStore, prefix: str) -> None:
    store = make_store(endpoints, prefix=prefix, bucket=own.bucket)
    keys = [f"processed/{number}/x" for number in range(7)] + ["processed/3/x", "temp/é +%20&<x"]
    begun = {
        (key, store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(key))["UploadId"]) for key in keys
    }
    if prefix:
        for foreign in ("ab/temp/x", "z/a/temp/x"):
            store.s3.create_multipart_upload(Bucket=store.bucket, Key=foreign)
    for page_uploads in (1, 2, 3, 9, 1000):
        found = list(list_multipart_uploads(store, page_uploads=page_uploads))
        assert len(found) == len(begun)
        assert {(one.key, one.upload_id) for one in found} == begun
    assert all(abs(datetime.now(UTC) - one.initiated_at) < timedelta(minutes=2) for one in found)
    for one in list_multipart_uploads(store, page_uploads=2):
        abort_multipart_upload(store, one.key, one.upload_id)
        abort_multipart_upload(store, one.key, one.upload_id)
        assert uploaded_bytes(store, one.key, one.upload_id) == 0
    assert list(list_multipart_uploads(store)) == []
    assert len(store.s3.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])) == (2 if prefix else 0)


def test_a_listing_that_does_not_say_how_it_goes_on(own: ObjectStore) -> None:
    for number in range(3):
        own.s3.create_multipart_upload(Bucket=own.bucket, Key=own.path(f"temp/{number}/blob"))

    def forget(parsed: dict[str, Any], **_: Any) -> None:
        parsed.pop("NextUploadIdMarker", None)

    own.s3.meta.events.register("after-call.s3.ListMultipartUploads", forget)
    with pytest.raises(StoreUnavailableError, match="there is more, and not where"):
        list(list_multipart_uploads(own, page_uploads=2))
    own.s3.meta.events.unregister("after-call.s3.ListMultipartUploads", forget)
    assert len(list(list_multipart_uploads(own, page_uploads=2))) == 3


def test_the_bytes_of_an_incomplete_upload(own: ObjectStore) -> None:
    key = "processed/1/video.mp4"
    upload = own.s3.create_multipart_upload(Bucket=own.bucket, Key=own.path(key))["UploadId"]
    for number, size in enumerate((1000, 500), 1):
        own.s3.upload_part(Bucket=own.bucket, Key=own.path(key), UploadId=upload, PartNumber=number, Body=b"x" * size)
    assert uploaded_bytes(own, key, upload) == 1500

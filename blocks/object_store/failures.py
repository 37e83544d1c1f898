"""What the clients raise, told in the project's own errors: one line, no request, no credential."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from obstore import exceptions as obstore_errors

from blocks.errors import (
    ContentMismatchError,
    NotFoundError,
    RefusedError,
    StorageError,
    StoreUnavailableError,
    first_line,
)
from blocks.object_store.block import ObjectStore

_WRONG_DIGEST = ("BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "XAmzContentChecksumMismatch")


@contextmanager
def store_errors(store: ObjectStore, action: str) -> Iterator[None]:
    """Turn a client's exception into a `StorageError` that names the bucket and what was being done."""
    try:
        yield
    except (
        ClientError,
        BotoCoreError,
        ResponseParserError,
        obstore_errors.BaseError,
        FileNotFoundError,
        PermissionError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the local disk's, not the store's
        raise _translated(store, action, error) from error
    except KeyError as error:
        # boto3 gives back what a server says, and a broken answer lacks what every whole one has.
        raise StoreUnavailableError(
            f"{action} in bucket {store.bucket}: the store's answer is not whole, it lacks {error}"
        ) from error


def _translated(store: ObjectStore, action: str, error: Exception) -> StorageError:
    place = f"{action} in bucket {store.bucket}"
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        detail = f"{code}: {error.response.get('Error', {}).get('Message', '')}".strip(": ")
    else:
        line = first_line(error)
        code = next((word for word in _WRONG_DIGEST if word in str(error)), "")
        answered = re.search(r"status code: (\d{3})", line)
        status = int(answered.group(1)) if answered else 0
        # The first line names method and URL; the rest is a dump of the request.
        detail = line.split(" - ")[-1].partition("<?xml")[0].strip(" :")[:200]
        if found := re.search(r"<Code>(\w+)</Code>", str(error)):
            detail = f"{found.group(1)}, {detail}"
        if isinstance(error, FileNotFoundError):
            status = 404
        elif isinstance(error, obstore_errors.PermissionDeniedError | obstore_errors.UnauthenticatedError):
            status = 403
    if code in _WRONG_DIGEST:
        return ContentMismatchError(f"{place}: the store received other bytes than were sent ({detail})")
    if status == 404:
        return NotFoundError(f"{place}: no such object or bucket ({detail})")
    if "InvalidObjectState" in detail:
        return RefusedError(
            f"{place}: it lies in an archive and is not restored yet ({detail}); have the server restore it first"
        )
    if status in (401, 403):
        return RefusedError(f"{place}: the store refuses these credentials ({detail}); check the block's credentials")
    if 400 <= status < 500 and status not in (408, 409, 425, 429):
        return RefusedError(f"{place}: the store refuses the request ({detail})")
    where = store.endpoint_url or "AWS"
    return StoreUnavailableError(f"{place}: the store did not answer as it should ({detail}; {where})")

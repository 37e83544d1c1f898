"""Blocks by name: flows take names, and an unknown one is refused with the names that exist."""

from __future__ import annotations

import re
from typing import TypeVar

from prefect.blocks.core import Block
from pydantic import ValidationError

from blocks.errors import InvalidInputError, NotFoundError
from blocks.units import shown

B = TypeVar("B", bound=Block)


def load_block(kind: type[B], name: str) -> B:
    """The block of this type that was saved under `name`.

    Raises:
        NotFoundError: no such block; the message lists those that exist.
        InvalidInputError: what was saved is refused by the block's own rules, which Prefect's server does not know.
    """
    from prefect.exceptions import ObjectNotFound

    if not _IS_NAME.fullmatch(name):
        # It would become a part of the address that Prefect's server is asked at.
        raise _unknown(kind, shown(name))
    try:
        loaded = kind.load(name)
    except (ValueError, ObjectNotFound) as error:
        if isinstance(error, ValueError) and "Unable to find block document" not in str(error):
            raise
        raise _unknown(kind, name) from error
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        raise InvalidInputError(
            f"the block {kind.get_block_type_slug()}/{name} is refused: {why_invalid(error.__cause__)}; "
            "change it under Blocks in the Prefect UI"
        ) from None
    if not isinstance(loaded, kind):
        raise NotFoundError(f"the block {name} is not a {kind.__name__}")
    return loaded


def why_invalid(error: ValidationError) -> str:
    """Which field is wrong and why, in one line; never what it was."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}" if one["loc"] else one["msg"] for one in error.errors()
    )


_IS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", flags=re.ASCII)
"""Prefect saves blocks under letters in lower case, digits and dashes; it was less strict once."""


def _unknown(kind: type[Block], name: str) -> NotFoundError:
    known = ", ".join(block_names(kind)) or "none is saved yet"
    return NotFoundError(
        f"no block {kind.get_block_type_slug()}/{name}; there are: {known}. Save one under Blocks in the Prefect UI."
    )


def block_names(kind: type[Block]) -> list[str]:
    """The names that blocks of this type are saved under."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        try:
            documents = client.read_block_documents_by_type(kind.get_block_type_slug())
        except (ObjectNotFound, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code != 404:
                raise
            return []  # not even the type is registered yet
    return sorted(str(document.name) for document in documents)

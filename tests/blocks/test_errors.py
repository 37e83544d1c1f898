"""Whether a retry makes sense is known of every error."""

from __future__ import annotations

import pytest

from blocks import errors
from blocks.errors import StorageError, TerminalError, TransientError, is_transient

CLASSES = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, StorageError) and one is not StorageError
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_either_terminal_or_transient(error: type[StorageError]) -> None:
    assert issubclass(error, TerminalError) != issubclass(error, TransientError)
    assert is_transient(error("why")) == issubclass(error, TransientError)


@pytest.mark.parametrize("error", [ValueError("a"), OSError(5, "b"), KeyboardInterrupt(), StorageError("c")])
def test_what_nobody_called_transient_is_not_retried(error: BaseException) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("error", CLASSES)
def test_a_message_comes_out_as_it_went_in(error: type[StorageError]) -> None:
    assert str(error("'a' is more than 5 B")) == "'a' is more than 5 B"

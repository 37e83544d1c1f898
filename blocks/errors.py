"""Every error of the project. Each is terminal (asking again changes nothing) or transient (the same call may
succeed later).

A message names the thing, the limit and the way out: it is read by an operator in the UI, not by a programmer.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of all errors that this project raises on purpose."""


class TerminalError(StorageError):
    """Asking again changes nothing: bad input, a refusal, or content that is not what it should be."""


class TransientError(StorageError):
    """The other side did not answer as it should; the same call may succeed later."""


class InvalidInputError(TerminalError):
    """A value that breaks a rule; nothing was written."""


class NotFoundError(TerminalError):
    """A name or id that the catalog, the store or Prefect does not know."""


class RefusedError(TerminalError):
    """Known, but not allowed: a disabled key, another key's job, a status that forbids it."""


class QuotaExceededError(RefusedError):
    """The bytes asked for do not fit beside what is used and reserved."""


class SourceChangedError(TerminalError):
    """A source gave other bytes on the second read than on the first."""


class ContentMismatchError(TerminalError):
    """Bytes do not have the SHA-256 or the size that was expected."""


class NotSmallerError(TerminalError):
    """Compressed, an object would take as much room; it is left as it is."""


class OvertakenError(TerminalError):
    """Somebody else changed the row since it was read; this writer's work was undone."""


class SchemaError(TerminalError):
    """The catalog's schema is not the one this code was written for."""


class ForeignCatalogError(TerminalError):
    """A bucket and a catalog do not carry the same id and epoch; nothing is written or removed."""


class FrozenCatalogError(TerminalError):
    """The catalog was restored and nobody has confirmed it yet: nothing is removed from any store."""


class DamagedBackupError(TerminalError):
    """A backup's files are not what its manifest says; nothing was restored from it."""


class ProgramError(TerminalError):
    """One of PostgreSQL's programs is missing, too old, or failed."""


class UnfitStoreError(TerminalError):
    """The store lacks something without which the platform would lose or leak bytes."""


class LeftOutError(TransientError):
    """A sweep of all stores could not work in some; what it did in the others is done, and the message says it."""


class StoreUnavailableError(TransientError):
    """The object store did not answer, or answered with a server error."""


class CatalogUnavailableError(TransientError):
    """PostgreSQL did not answer."""


class SweepBusyError(TransientError):
    """Another sweep works on the same place."""


class LockLostError(TransientError):
    """The connection that held a sweep's lock was cut while it worked."""


class WorkerLostError(TransientError):
    """Processes ended, one after the other, while they worked at the same batch."""


class SourceUnavailableError(TransientError):
    """A URL source did not answer, or answered with a server error."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, without the dump that follows; a driver's own where SQLAlchemy wraps it."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def is_transient(error: BaseException) -> bool:
    """Whether a retry makes sense."""
    return isinstance(error, TransientError)

"""What every command prints with, and how it tells an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import typer
from rich.console import Console

from blocks.errors import StorageError, first_line

out = Console()
err = Console(stderr=True, soft_wrap=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """The project's own errors are one line and exit code 1, not a traceback."""
    try:
        yield
    except StorageError as error:
        err.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False)
        raise typer.Exit(1) from error
    except httpx.HTTPError as error:
        where = os.environ.get("PREFECT_API_URL", "the Prefect server")
        reason = first_line(error)
        if isinstance(error, httpx.HTTPStatusError):
            reason = f"it said {error.response.status_code} to {error.request.method} {error.request.url.path}"
            if error.response.is_server_error:
                reason += "; its own database may be down: `make status` tells of the embedded one"
        err.print(f"[bold red]error:[/] {where} did not answer as it should: {plain(reason)}", highlight=False)
        raise typer.Exit(1) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # who read our output has enough of it
            raise
        where = f"{error.filename}: " if error.filename else ""
        err.print(f"[bold red]error:[/] {plain(f'{where}{error.strerror or error}')}", highlight=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        err.print("[yellow]interrupted[/]")
        raise typer.Exit(130) from None


def plain(message: str) -> str:
    """A message as it is: square brackets in it are not rich's markup."""
    return message.replace("[", "\\[")

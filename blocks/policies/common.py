"""What all policies share: how a field is declared and named in the UI's forms."""

from __future__ import annotations

from typing import Any

from pydantic import Field

LOGO: Any = "https://cdn.sanity.io/images/3ugk85nk/production/fb3f4debabcda1c5a3aeea4f5b3f94c28845e23e-250x250.png"
DOCS: Any = "https://docs.prefect.io/v3/concepts/blocks"

GIB = 1024**3
MIB = 1024**2


def field(position: int, description: str, default: Any, **limits: Any) -> Any:
    """A field of a policy, with its place in the form."""
    # Prefect stores schemas as JSON in PostgreSQL, which forgets the order of keys: forms follow `position`.
    return Field(default=default, description=description, json_schema_extra={"position": position}, **limits)


def title(name: str, _: object) -> str:
    """A form's label: `largest_source_gib` reads `Largest source GiB`."""
    words = [
        {"gib": "GiB", "mib": "MiB", "url": "URL", "postgresql": "PostgreSQL"}.get(word, word)
        for word in name.split("_")
    ]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])

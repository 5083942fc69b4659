"""The option --from: where events come from."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.errors import RefusedError, UsageError

__all__ = ["Source", "need_store"]

#: The sources whose names are taken, but which are not there yet.
LATER = ("archive", "topic")

Source = Annotated[str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store.")]


def need_store(source: str) -> None:
    """Let `store` pass; RefusedError for a source that comes later, UsageError for what is no source."""
    if source in LATER:
        raise RefusedError(
            f"--from {source} is not there yet: it comes with the {source}", next_step="use --from store"
        )
    if source != "store":
        raise UsageError(f"there is no source {source!r}", next_step="use --from store")

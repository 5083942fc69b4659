"""Commands that check: verify the events' integrity, and compare live rows with a replay."""

from __future__ import annotations

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""

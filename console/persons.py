"""Who decides and why: the options --by and --reason of commands that leave a person's word behind."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.errors import UsageError

__all__ = ["By", "Reason", "reason_of", "who"]

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stands in the history for ever.")]
By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who decides (default: the user of this computer).")
]


def reason_of(reason: str) -> str:
    """Return a reason without the blanks around it; UsageError where it says nothing."""
    _need_text(reason, "--reason")
    if not reason.strip():
        raise UsageError("--reason is empty", next_step="say why: it is all that a later reader has")
    return reason.strip()


def who(by: str | None) -> str:
    """Return who decides; UsageError where nothing says so, or where it is said to be the machine."""
    from getpass import getuser

    from ledger.breaks import MACHINE

    try:
        name = getuser() if by is None else by.strip()
    except (OSError, KeyError):
        name = ""
    _need_text(name, "--by")
    if not name or name == MACHINE:
        raise UsageError("nothing says who decides", next_step="give --by NAME, the name of a person")
    return name


def _need_text(words: str, option: str) -> None:
    """UsageError for bytes that are no text: no database takes them."""
    try:
        words.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} has bytes that are not UTF-8", next_step="say it in UTF-8") from None

"""What a command that changes data says first, and whether the person at the terminal wants it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from ledger.store import Store

__all__ = ["EVENTS_STAY", "Yes", "need_unfenced", "need_with", "need_yes", "say_first"]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

#: What a person should know who is about to append some.
EVENTS_STAY = "events are never taken back"


def say_first(what: str, lines: Sequence[str] = ()) -> None:
    """Say on stderr what is about to be done."""
    from console.render import printable

    told = [f"about to {printable(what)}{':' if lines else ''}", *[f"  {printable(line)}" for line in lines]]
    sys.stderr.write("".join(f"{line}\n" for line in told))


def need_yes(what: str, lines: Sequence[str] = (), *, is_sure: bool, needs_answer: bool = False) -> None:
    """Say what is about to be done, and ask on a terminal unless `is_sure`.

    Where nobody can be asked it goes on, unless it `needs_answer`, since nothing brings back what it takes away.

    Raises:
        RefusedError: a person says no.
        UsageError: it needs an answer, and nobody is there to give one.
    """
    from console.render import printable

    is_asked = not is_sure and sys.stdin.isatty()
    if needs_answer and not is_sure and not is_asked:
        raise UsageError(f"this would {what}, and there is nobody to ask", next_step="say --yes too")
    say_first(what, lines)
    if is_asked:
        # Not by a library's prompt, which leaves a blank on stdout, where the answer alone belongs.
        sys.stderr.write(f"{printable(what[0].upper() + what[1:])}? [y/N]: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RefusedError("nothing was changed")


def need_with(needed: str, is_there: bool, given: Mapping[str, object]) -> None:
    """UsageError where an option is given that is about another one, which is not there."""
    for name, value in given.items():
        if value and not is_there:
            raise UsageError(f"{name} is about {needed}", next_step=f"say {needed} too, or leave it away")


def need_unfenced(store: Store) -> None:
    """LedgerFenced while a recovery lets nobody append, before anybody is asked or anything is tried one by one."""
    from ledger.fence import refuse_fenced

    with store.snapshot() as connection:
        refuse_fenced(connection)

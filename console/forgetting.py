"""What `drift --forget` does: a shadow goes, with its rows and everything that its comparisons have found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.answer import Answer
from console.consent import need_yes
from console.watching import shadow_of
from console.words import count
from ledger import comparisons, findings, read_model, shadows
from ledger.order_transactions import FOLLOWER
from schemas import format_time
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from console.run import Run
    from ledger.comparisons import Comparison

__all__ = ["forget"]

#: What else it means to drop the shadow of the reconciliation, of which nobody knows whether it runs.
_OF_ORDERS = (
    "a `reconcile --watch` or `watch` that runs with it ends by itself, refused; the next one reads the ledger anew "
    "from its beginning and judges all orders, and breaks stay as they are until then"
)

_STATES: tuple[findings.State, ...] = ("suspected", "drift", "uncompared", "healed")


def forget(run: Run, name: str, *, is_sure: bool) -> Answer:
    """Drop a shadow and what was found by it; asks on a terminal unless `is_sure`, which it has to be elsewhere.

    UsageError where there is nothing of that name, or nobody can be asked; RefusedError while a process compares it.
    """
    with run.ledger() as store:
        with store.snapshot() as connection:
            found = shadows.find(connection, name)
            compared = _compared(connection, name)
            if found is None and not compared:
                raise UsageError(f"there is no shadow {name!r}", next_step="`watch` makes one")
            _refuse_held(compared, format_time(run.now))
            rows = 0 if found is None else read_model.rows(connection, found.number).height
            lost = sum(len(findings.listed(connection, each.name, states=_STATES)) for each in compared)
        names = [each.name for each in compared]
        what = f"the shadow {name!r} with {count(rows, 'row')}, and {count(lost, 'finding')}, healed ones included"
        notes = [_OF_ORDERS] if name == FOLLOWER else []
        stays = ["live rows and events stay as they are", *notes]
        need_yes(f"drop {what}", stays, is_sure=is_sure, needs_answer=True)
        with store.writing() as connection:
            # Whoever began meanwhile has not been asked about.
            _refuse_held(_compared(connection, name), format_time(run.now))
            for each in names:
                comparisons.forget(connection, each)
            if found is not None:
                shadows.lock(connection, found)
                shadows.drop(connection, found)
    fields = {"shadow": name, "rows": rows, "findings": lost, "comparisons": names}
    return Answer(verdict="OK", fields=fields, summary=[f"OK: forgot {what}"], notes=notes)


def _compared(connection: Connection, name: str) -> list[Comparison]:
    return [each for each in comparisons.listed(connection) if shadow_of(each.name) == name]


def _refuse_held(compared: list[Comparison], now: str) -> None:
    for each in compared:
        if each.holder is not None and (each.held_until or "") >= now:
            raise RefusedError(
                f"another process follows and compares it: {each.name}",
                next_step=f"end that one first; one that was killed counts until {each.held_until}",
            )

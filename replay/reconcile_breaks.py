"""What a reconciliation once found, as breaks: kept where nobody does so for ever, and told what became of each.

Whoever follows both sides knows more than a single look, so where a reconciliation runs for ever nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger import break_rows, breaks, orders, shadows, withheld_orders
from ledger.order_transactions import FOLLOWER
from ledger.store import Store
from replay.reconcile import FOUND_SCHEMA, Found
from schemas import format_time

__all__ = ["Kept", "keep"]


class Kept(NamedTuple):
    """What was found, each mismatch with its break, and why nothing was written, None where it was."""

    found: Found
    why_not: str | None = None


def keep(store: Store, found: Found, *, now: datetime) -> Kept:
    """Bring the breaks of the orders that were judged up to date in one transaction, and return what became of each.

    Nothing is written where a reconciliation does so for ever, nor where either side is older than what the breaks are
    known from: another look may have ended while this one was under way.
    """
    with store.writing() as connection:
        orders.lock(connection)
        why_not = _why_not(connection, found)
        if why_not is None:
            _write(connection, found, now)
        return Kept(_with_breaks(connection, found), why_not)


def _why_not(connection: Connection, found: Found) -> str | None:
    if shadows.find(connection, FOLLOWER) is not None:
        return "`reconcile --watch` keeps the breaks of this ledger"
    known = orders.read_until(connection).ledger_at
    if found.ledger_until is None:
        return "up to when the ledger's side is whole is not known"
    if known is not None and found.ledger_until < known:
        moments = f"{format_time(known)}, and this looked at the ledger as of {format_time(found.ledger_until)}"
        return f"the breaks of this ledger are known from {moments}"
    if orders.facts_count(connection) != found.facts_count:
        return "orders came in while this looked at them: run `reconcile` again"
    return None


def _write(connection: Connection, found: Found, now: datetime) -> None:
    mismatches = pl.concat([found.mismatches, found.pending, found.beyond])
    # Both sides were read to `until` before they were judged, so what is past its deadline then waits for nothing.
    breaks.apply(
        connection,
        mismatches,
        _judged(connection, found),
        until=found.until,
        now=now,
        grace_seconds=found.grace_seconds,
        judged_at=found.until,
    )
    _withhold(connection, found)
    # A range says nothing of what is not in it, so the ledger is not looked at as a whole.
    if found.ledger_until is not None and found.is_all:
        orders.set_read_until(connection, "ledger", found.ledger_until)


def _judged(connection: Connection, found: Found) -> pl.Series | None:
    """Return the orders of which every break that was not found is over, None for all.

    Those of a break in an account that nobody can read any more are not among them: its transactions may still be
    there. Of all orders, those are that have a break and no fact any more.
    """
    if found.is_all and found.withheld.is_empty() and found.unknown.is_empty():
        return None
    known = break_rows.stored(connection).select("order_id", "account_id")
    hidden = known.filter(pl.col("account_id").is_in(found.unknown.implode())).select("order_id")
    said = pl.concat([*found.named, *([known.select("order_id")] if found.is_all else [])]).unique()
    for others in (hidden, found.withheld):
        said = said.join(others, on="order_id", how="anti")
    return said["order_id"]


def _withhold(connection: Connection, found: Found) -> None:
    """Note the orders that nothing can be said of, and that no other of those that were judged is one."""
    known = withheld_orders.known(connection)
    if found.is_all:
        over = known
    else:
        ids = pl.DataFrame({"order_id": known}, schema={"order_id": pl.String()})
        of_range = pl.concat([*found.named, found.withheld.select("order_id")])
        over = ids.join(of_range, on="order_id", how="semi")["order_id"].to_list()
    withheld_orders.replace(connection, over, found.withheld)
    breaks.withhold(connection, found.withheld["order_id"].to_list())


def _with_breaks(connection: Connection, found: Found) -> Found:
    """Return what was found with the break of each mismatch; what waits there is pending here."""
    both = pl.concat([found.mismatches, found.pending])
    due = found.mismatches.select("order_id", "code", is_due=pl.lit(value=True))
    known = break_rows.listed(connection, order_ids=both["order_id"].unique().to_list())
    told = known.select(
        "order_id",
        "code",
        "state",
        "resolution",
        "changed_at",
        kept_deadline_at="deadline_at",
        **{"break": pl.col("id")},
    )
    joined = (
        both.drop("break", "state", "resolution", "changed_at")
        .join(told, on=["order_id", "code"], how="left", maintain_order="left")
        .join(due, on=["order_id", "code"], how="left", maintain_order="left")
    )
    # What was resolved late and is found again waits once more, until its new deadline.
    waits = (pl.col("state") == "pending") | ((pl.col("state") == "resolved") & (pl.col("resolution") == "late"))
    is_pending = waits.fill_null(pl.col("is_due").is_null())
    # A break may have a deadline of its own, and is certain only then.
    rows = joined.with_columns(is_pending=is_pending, deadline_at=pl.coalesce("kept_deadline_at", "deadline_at"))
    return replace(
        found,
        mismatches=rows.filter(~pl.col("is_pending")).select(FOUND_SCHEMA.names()),
        pending=rows.filter("is_pending").select(FOUND_SCHEMA.names()),
    )

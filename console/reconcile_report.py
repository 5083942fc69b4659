"""The report of one reconciliation: what it found, with what is known of each as a break."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from console.reports.reconciliation import Reported, reconciliation_report
from ledger import break_rows
from ledger.break_rows import BREAK_SCHEMA

if TYPE_CHECKING:
    from console.answer import Answer
    from console.reconcile_answers import Reconciled
    from console.reports.model import Report
    from ledger.store import Store

__all__ = ["Sides", "report_of"]

#: What only the ledger knows of a break.
_KEPT = ("noticed_at", "opened_at", "resolved_at", "changed_at")


class Sides(NamedTuple):
    """Where the two sides came from, in words, and whether one of them is the ledger's own store."""

    words: str
    is_own: bool


def report_of(done: Reconciled, answer: Answer, store: Store | None, *, sides: Sides, now: datetime) -> Report:
    """Return the report of one reconciliation, whose answer says the same; `store` is that of a side, if any."""
    found = done.found
    both = pl.concat([_named(found.mismatches, "open"), _named(found.pending, "pending")])
    ids = both["id"].drop_nulls().to_list()
    if store is not None and ids:
        with store.snapshot() as connection:
            known = break_rows.listed(connection, ids=ids).select("id", *_KEPT)
            history = break_rows.histories(connection, ids)
    else:
        known = pl.DataFrame(schema={name: BREAK_SCHEMA[name] for name in ("id", *_KEPT)})
        history = pl.DataFrame(schema=break_rows.HISTORY_SCHEMA)
    breaks = both.join(known, on="id", how="left", maintain_order="left").select(BREAK_SCHEMA.names())
    standing = breaks.join(found.standing.select("order_id", "code"), on=["order_id", "code"], how="semi")
    return reconciliation_report(
        Reported(
            verdict=answer.verdict,
            made_at=now,
            ledger_id=_ledger_id(done, store, sides),
            asked={
                "from": done.span.start,
                "until": done.span.end,
                "business_code": done.business_code,
                "rules": None if done.business_code is None else "the scenario's",
            },
            source=sides.words,
            read_until_at=found.until,
            breaks=breaks,
            standing=standing,
            withheld=found.withheld,
            parked=found.parked,
            pending=found.pending.height,
            orders=found.orders,
            transactions=found.transactions,
            certificate=found.certificate,
            history=history,
            notes=answer.notes,
        )
    )


def _named(found: pl.DataFrame, state: str) -> pl.DataFrame:
    """Return what was found as breaks; of one that is not kept, `state` is what it would be."""
    named = found.with_columns(id="break", state=pl.col("state").fill_null(state), is_found=pl.lit(value=True))
    return named.drop("break", "latest_at", "changed_at")


def _ledger_id(done: Reconciled, store: Store | None, sides: Sides) -> str | None:
    if store is not None and sides.is_own:
        return store.ledger_id
    # An empty ledger may stand in beside a topic; an archive says itself whose it is.
    certificate = done.found.certificate
    return certificate.ledger_id if store is None and certificate is not None else None

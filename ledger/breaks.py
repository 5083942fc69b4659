"""The life of a break: one mismatch of an order with the ledger, by order and code, in `ledger_breaks`.

    (found) ──> pending ──> open ──────> resolved late ──> reopened ──> resolved late ...
                   │          └────────> resolved manual, or accepted: by a person
                   └──> (gone)           what is in order before its deadline never was a break

A pending one waits until both sides were read past its deadline (`until`, the earlier of the two). The deadline is the
latest fact and the time of grace, but no earlier than the judgement that first found these facts, since facts that are
dated long ago may have come before what answers them was read; and no later than that judgement and the time of grace,
since a fact may be dated in any year. What a person decided the machine never undoes: it only notes that the facts
changed. Each change is a row of `ledger_break_history`.
All functions work inside the caller's write transaction, begun with `ledger.orders.lock`, so judges are serial.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, delete, func, or_, select

from ledger import bulk, orders
from ledger.break_deadlines import Turn, as_text
from ledger.break_rows import (
    BREAK_SCHEMA,
    BY_HAND,
    HISTORY_SCHEMA,
    NOT_RESOLVED,
    STANDING,
    STORED_SCHEMA,
    Resolution,
    Selection,
    State,
    history,
    listed,
    stored,
)
from ledger.order_tables import BREAK_HISTORY, BREAKS, ORDERS_TOUCHED, ORDERS_WITHHELD
from schemas import format_time
from schemas.errors import RefusedError, UsageError

__all__ = [
    "BREAK_SCHEMA",
    "FOUND_SCHEMA",
    "HISTORY_SCHEMA",
    "MACHINE",
    "NOT_RESOLVED",
    "STANDING",
    "Changes",
    "Resolution",
    "Selection",
    "State",
    "apply",
    "history",
    "listed",
    "reopen",
    "resolve",
    "sweep",
    "withhold",
]

#: Who decided, where nobody did.
MACHINE = "reconciliation"

#: The columns of what was found, one row an order and code; times in UTC. Others that a frame has are not looked at.
FOUND_SCHEMA = pl.Schema(
    {
        name: dtype
        for name, dtype in BREAK_SCHEMA.items()
        if name not in ("id", "state", "resolution", "is_found", "noticed_at", "opened_at", "resolved_at", "changed_at")
    }
)


class Changes(NamedTuple):
    """What changed: breaks as they are now (`BREAK_SCHEMA`), and how many wait or are gone without a trace.

    `changed` are those that somebody decided about and whose facts are others by now.
    """

    opened: pl.DataFrame
    reopened: pl.DataFrame
    resolved: pl.DataFrame
    changed: pl.DataFrame
    pending: int
    gone: int


def apply(
    connection: Connection,
    found: pl.DataFrame,
    of: pl.Series | None,
    *,
    until: datetime | None,
    now: datetime,
    grace_seconds: float,
    judged_at: datetime | None = None,
    noticed_until: datetime | None = None,
    by: str = MACHINE,
) -> Changes:
    """Bring the breaks of some orders up to date with what judging them found, and return what that changed.

    `found` (`FOUND_SCHEMA`) has a row an order and code; `of` are all the orders that were judged, None for every one
    there is: whatever a break of theirs says and is not among `found` is over. Orders that are withheld are not among
    them. `until` is the moment up to which both sides were read, None where one never was: then nothing opens.

    No deadline of new facts is before `judged_at` (default: `now`), nor later than `now` and `grace_seconds`. Whoever
    judges a side as it was at a moment gives that. What was noticed after `noticed_until` waits whatever its deadline.
    """
    before = stored(connection, order_ids=None if of is None else of.to_list())
    turn = Turn(until, now, by, noticed_until, timedelta(seconds=grace_seconds), judged_at or now)
    return _write(connection, before, _as_stored(found), turn)


def sweep(
    connection: Connection,
    *,
    until: datetime | None,
    now: datetime,
    noticed_until: datetime | None = None,
    by: str = MACHINE,
) -> Changes:
    """Open whatever waits and whose deadline has passed, and return it.

    Orders that are withheld are left out, and those that are touched: they may have righted themselves. What was
    noticed after `noticed_until` waits still.
    """
    if until is None:
        return Changes(_NONE, _NONE, _NONE, _NONE, pending=0, gone=0)
    is_late = (_B.state == "resolved") & (_B.resolution == "late") & (_B.is_found == 1)
    is_withheld = select(ORDERS_WITHHELD.c.order_id).where(ORDERS_WITHHELD.c.order_id == _B.order_id).exists()
    is_touched = select(ORDERS_TOUCHED.c.order_id).where(ORDERS_TOUCHED.c.order_id == _B.order_id).exists()
    waits = or_(_B.state == "pending", is_late)
    due = waits & (_B.deadline_at <= format_time(until)) & ~is_withheld & ~is_touched
    if noticed_until is not None:
        due &= _B.noticed_at <= format_time(noticed_until)
    before = bulk.select_rows(connection, select(*(_B[name] for name in STORED_SCHEMA)).where(due), STORED_SCHEMA)
    return _write(connection, before, before.select(FOUND_SCHEMA.names()), Turn(until, now, by, noticed_until))


def withhold(connection: Connection, order_ids: Sequence[str]) -> int:
    """Forget what is pending of orders of which nothing can be said any more, and return how many that were.

    What is open stays so, since nobody knows that it is over. Judged again, what is wrong with them is found again.
    """
    waiting = stored(connection, Selection(states=("pending",)), order_ids=order_ids)["id"].to_list()
    gone = sorted(set(waiting) - set(_told(connection, waiting)))
    _forget(connection, gone)
    return len(gone)


def resolve(
    connection: Connection, ids: Sequence[int], resolution: Resolution, *, by: str, why: str, now: datetime
) -> pl.DataFrame:
    """Resolve breaks by hand (`manual` or `accepted`), all or none, and return them as they are then.

    That includes what was resolved by hand and whose facts changed since. UsageError for an id that there is none of,
    RefusedError for any other break that is resolved already.
    """
    before = _known(connection, ids)
    is_refused = (pl.col("state") == "resolved") & ~(
        pl.col("resolution").is_in(BY_HAND) & pl.col("changed_at").is_not_null()
    )
    for row in before.filter(is_refused).iter_rows(named=True):
        raise RefusedError(
            f"break {row['id']} is resolved already: {row['resolution']}",
            where=f"order {row['order_id']}, {row['code']}",
            next_step="look at `breaks show`; `breaks reopen` takes a decision back",
        )
    after = before.with_columns(
        pl.lit("resolved").alias("state"),
        pl.lit(resolution).alias("resolution"),
        pl.lit(format_time(now)).alias("resolved_at"),
        _NO_TEXT.alias("changed_at"),
    )
    return _decide(connection, before, after, by=by, why=why, now=now)


def reopen(connection: Connection, ids: Sequence[int], *, by: str, why: str, now: datetime) -> pl.DataFrame:
    """Reopen resolved breaks by hand, all or none, and return them as they are then.

    One that was pending when it was resolved is pending again while its deadline is ahead. UsageError for an id that
    there is none of, RefusedError for a break that is not resolved, or that the facts do not give any more.
    """
    before = _known(connection, ids)
    until = orders.read_until(connection).both_at
    is_ahead = pl.lit(value=True) if until is None else pl.col("deadline_at") > format_time(until)
    waits = pl.col("opened_at").is_null() & is_ahead
    for row in before.iter_rows(named=True):
        if row["state"] == "resolved" and row["is_found"]:
            continue
        reason = "its facts are in order now" if row["state"] == "resolved" else f"it is {row['state']}"
        raise RefusedError(
            f"break {row['id']} cannot be reopened: {reason}",
            where=f"order {row['order_id']}, {row['code']}",
            next_step="only what is resolved and still wrong can be; `breaks show` tells what happened",
        )
    after = before.with_columns(
        pl.when(waits).then(pl.lit("pending")).otherwise(pl.lit("reopened")).alias("state"),
        *(_NO_TEXT.alias(name) for name in ("resolution", "resolved_at", "changed_at")),
        pl.when(~waits).then(pl.lit(format_time(now))).alias("opened_at"),
    )
    return _decide(connection, before, after, by=by, why=why, now=now)


_B, _H = BREAKS.c, BREAK_HISTORY.c
_NONE = pl.DataFrame(schema=BREAK_SCHEMA)

#: What a break says of an order. Where its events are is not part: another copy of the stream has them elsewhere.
_FACTS = (
    "is_found",
    "account_id",
    "points_at_risk",
    "order_points",
    "credit_points",
    "order_status",
    "credit_status",
    "transactions",
    "evidence",
)
_KEY = ("order_id", "code")
_SAYS = [name for name in FOUND_SCHEMA if name not in _KEY]

_NO_TEXT = pl.lit(None, pl.String())
_IS_FOUND = pl.col("is_found") == 1
_IS_TURNED = pl.col("state").ne_missing(pl.col("old_state"))
_IS_DECIDED = pl.col("old_resolution").is_in(BY_HAND).fill_null(value=False)
_IS_CHANGED = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"old_{name}")) for name in _FACTS)


def _as_stored(found: pl.DataFrame) -> pl.DataFrame:
    """Return what was found with the columns as the table has them."""
    lists = [msgspec.json.encode(ids or []).decode() for ids in found["transactions"].to_list()]
    return found.select(FOUND_SCHEMA.names()).with_columns(
        as_text(pl.col(pl.Datetime)), pl.Series("transactions", lists, pl.String)
    )


def _write(connection: Connection, before: pl.DataFrame, found: pl.DataFrame, turn: Turn) -> Changes:
    """Write what becomes of the breaks `before`, where all that is wrong now is `found`, and return it."""
    turned = _kept_if_told(connection, _turned(before, found, turn), turn)
    gone = turned.filter(pl.col("state").is_null())["id"].to_list()
    _forget(connection, gone)
    is_other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"old_{name}")) for name in ("is_found", *_SAYS))
    kept = turned.filter(pl.col("state").is_not_null() & (_IS_TURNED | is_other))
    rows = kept.select(STORED_SCHEMA.names())
    bulk.upsert_rows(connection, BREAKS, rows.filter(pl.col("id").is_not_null()))
    new = rows.filter(pl.col("id").is_null()).drop("id").sort(_KEY)
    bulk.insert_rows(connection, BREAKS, new)
    is_changed = (_IS_DECIDED | pl.col("state").is_in(STANDING)) & _IS_CHANGED
    noted = _with_ids(connection, kept.filter(_IS_TURNED | is_changed), new["order_id"].to_list())
    _note(connection, noted.with_columns(_WHY.alias("why")), by=turn.by, now=turn.now)
    ids = {
        state: noted.filter(_IS_TURNED, pl.col("state") == state)["id"].to_list()
        for state in ("pending", "open", "reopened", "resolved")
    }
    return Changes(
        opened=listed(connection, ids=ids["open"]),
        reopened=listed(connection, ids=ids["reopened"]),
        resolved=listed(connection, ids=ids["resolved"]),
        changed=listed(connection, ids=noted.filter(_IS_DECIDED, ~_IS_TURNED)["id"].to_list()),
        pending=len(ids["pending"]),
        gone=len(gone),
    )


def _turned(before: pl.DataFrame, found: pl.DataFrame, turn: Turn) -> pl.DataFrame:
    """Return the rows after a look, with those before it under `old_`; `state` is null where one is gone."""
    now = pl.lit(format_time(turn.now))
    old = before.rename({name: f"old_{name}" for name in before.columns if name not in _KEY})
    both = old.join(found.with_columns(is_found=pl.lit(1, pl.Int64)), on=_KEY, how="full", coalesce=True)
    known = both.with_columns(
        pl.col("old_id").alias("id"),
        pl.col("is_found").fill_null(0),
        *(pl.when(_IS_FOUND).then(name).otherwise(f"old_{name}").alias(name) for name in _SAYS),
    )
    was_found = (pl.col("old_is_found") == 1).fill_null(value=False)
    is_kept = ~_IS_FOUND | (was_found & ~_IS_CHANGED & turn.is_kept)
    # Nobody waits for what stands or is decided.
    waits = ~pl.col("old_state").is_in(STANDING).fill_null(value=False) & ~_IS_DECIDED
    dated = known.with_columns(
        pl.when(is_kept).then(turn.kept_deadline_at).otherwise(turn.deadline_at).alias("deadline_at"),
        pl.when(~is_kept & waits).then(now).otherwise("old_noticed_at").alias("noticed_at"),
    )
    turned = dated.with_columns(_state_after(turn.is_past).alias("state"))
    is_standing, is_resolved = pl.col("state").is_in(STANDING), pl.col("state") == "resolved"
    return turned.with_columns(
        pl.when(is_resolved).then(pl.col("old_resolution").fill_null("late")).alias("resolution"),
        pl.when(is_resolved).then(pl.col("old_resolved_at").fill_null(now)).alias("resolved_at"),
        pl.when(_IS_TURNED & is_standing).then(now).otherwise("old_opened_at").alias("opened_at"),
        pl.when(_IS_DECIDED & _IS_CHANGED).then(now).otherwise("old_changed_at").alias("changed_at"),
    )


def _kept_if_told(connection: Connection, turned: pl.DataFrame, turn: Turn) -> pl.DataFrame:
    """Return the same, with what would be gone resolved late where somebody once decided about it: a reason stays."""
    gone = turned.filter(pl.col("state").is_null())["id"].to_list()
    if not gone:
        return turned
    is_told = pl.col("state").is_null() & pl.col("id").is_in(_told(connection, gone))
    return turned.with_columns(
        pl.when(is_told).then(pl.lit(text)).otherwise(name).alias(name)
        for name, text in (("state", "resolved"), ("resolution", "late"), ("resolved_at", format_time(turn.now)))
    )


def _told(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Return which of some breaks that wait have a history that is more than that they were found."""
    statement = select(_H.break_id).where(_H.number == 2)
    found = bulk.select_rows(connection, statement, {"break_id": pl.Int64()}, key=_H.break_id, keys=ids)
    return found["break_id"].to_list()


def _state_after(is_past: pl.Expr) -> pl.Expr:
    """Return the state of a break after a look, null where it is gone."""
    state = pl.col("old_state")
    return (
        pl.when(state.is_null() | (state == "pending"))
        .then(pl.when(~_IS_FOUND).then(_NO_TEXT).when(is_past).then(pl.lit("open")).otherwise(pl.lit("pending")))
        .when(state.is_in(STANDING) & ~_IS_FOUND)
        .then(pl.lit("resolved"))
        .when((pl.col("old_resolution") == "late") & _IS_FOUND & is_past)
        .then(pl.lit("reopened"))
        .otherwise(state)
    )


_WHY = (
    pl.when(_IS_TURNED)
    .then(
        pl.when(pl.col("state") == "pending")
        .then(pl.format("found; it may come into order until {}", "deadline_at"))
        .when(pl.col("state") == "open")
        .then(pl.format("both sides were read past its deadline, {}, and it is still so", "deadline_at"))
        .when(pl.col("state") == "reopened")
        .then(pl.lit("found again"))
        .otherwise(pl.lit("what came since puts it in order"))
    )
    .when(~_IS_FOUND)
    .then(pl.lit("what came since puts it in order; the decision stands"))
    .when(pl.col("old_is_found") == 0)
    .then(pl.lit("found again; the decision stands"))
    .when(_IS_DECIDED)
    .then(pl.lit("the facts changed; the decision stands"))
    .otherwise(pl.lit("the facts changed, and it is still wrong"))
)


def _with_ids(connection: Connection, rows: pl.DataFrame, new: Sequence[str]) -> pl.DataFrame:
    """Return rows with the ids that the database gave to those of the orders `new`."""
    statement = select(_B.id, _B.order_id, _B.code)
    schema = {name: STORED_SCHEMA[name] for name in ("id", *_KEY)}
    found = bulk.select_rows(connection, statement, schema, key=_B.order_id, keys=sorted(set(new)))
    given = found.rename({"id": "given_id"})
    return rows.join(given, on=_KEY, how="left").with_columns(pl.col("id").fill_null(pl.col("given_id")))


def _known(connection: Connection, ids: Sequence[int]) -> pl.DataFrame:
    """Return the breaks of some ids as the table has them; UsageError where there is none of one of them."""
    orders.lock(connection)
    before = stored(connection, ids=ids).unique("id").sort("id")
    missing = sorted(set(ids) - set(before["id"]))
    if missing:
        raise UsageError(f"there is no break {missing[0]}", next_step="`breaks` lists those that there are")
    return before


def _decide(
    connection: Connection, before: pl.DataFrame, after: pl.DataFrame, *, by: str, why: str, now: datetime
) -> pl.DataFrame:
    """Write what a person decided, with its history, and return the breaks."""
    bulk.upsert_rows(connection, BREAKS, after)
    old = before.select("id", pl.col("state").alias("old_state"))
    _note(connection, after.join(old, on="id").with_columns(pl.lit(why).alias("why")), by=by, now=now)
    return listed(connection, ids=after["id"].to_list())


def _note(connection: Connection, turned: pl.DataFrame, *, by: str, now: datetime) -> None:
    """Write a row of history for each break; `old_state` is null for one that is new."""
    statement = select(_H.break_id, func.max(_H.number)).group_by(_H.break_id)
    schema = {"break_id": pl.Int64(), "last": pl.Int64()}
    last = bulk.select_rows(connection, statement, schema, key=_H.break_id, keys=turned["id"].to_list())
    rows = turned.join(last, left_on="id", right_on="break_id", how="left").select(
        pl.col("id").alias("break_id"),
        (pl.col("last").fill_null(0) + 1).alias("number"),
        pl.lit(format_time(now)).alias("at"),
        pl.lit(by).alias("by"),
        pl.col("old_state").alias("from_state"),
        pl.col("state").alias("to_state"),
        *("resolution", "why", "points_at_risk", "evidence"),
    )
    bulk.insert_rows(connection, BREAK_HISTORY, rows)


def _forget(connection: Connection, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), bulk.KEYS_PER_QUERY):
        some = ids[start : start + bulk.KEYS_PER_QUERY]
        connection.execute(delete(BREAK_HISTORY).where(_H.break_id.in_(some)))
        connection.execute(delete(BREAKS).where(_B.id.in_(some)))

"""Answers about accounts, straight from the events: balances of some or all, and one account's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from ledger.store import Store
from projections import BALANCES, Projection
from replay.certificate import Certificate
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.store_source import StoreSource
from schemas.columns import DETAIL_COLUMNS, EVENT_SCHEMA
from schemas.errors import PointsOverflow, UsageError

__all__ = ["HISTORY_COLUMNS", "Balances", "History", "balances", "history", "name_unknown"]

HISTORY_COLUMNS = (
    "version",
    "effective_at",
    "recorded_at",
    "event",
    "transaction_id",
    "type",
    "from_status",
    "to_status",
    "amount",
    "balance",
    "frozen",
)


@dataclass(frozen=True)
class Balances:
    """Balances rows in account order; `watermark` is the moment up to which the source is known to be whole."""

    verdict: str
    rows: pl.DataFrame
    certificate: Certificate
    watermark: datetime | None


@dataclass(frozen=True)
class History:
    """One account's events in stream order with the balance and the frozen points after each."""

    verdict: str
    rows: pl.DataFrame
    certificate: Certificate


def balances(
    store: Store,
    account_ids: Sequence[str] = (),
    *,
    at: int | None = None,
    progress: Progress | None = None,
    now: datetime | None = None,
) -> Balances:
    """Return the balances of some accounts (default: all) as the events say, at a position (default: the head).

    An account that is parked has no row; the certificate names it and the verdict is INCOMPLETE. UsageError
    names an account that the ledger has never seen.
    """
    with (
        StoreSource.snapshot(store, account_ids=account_ids or None) as source,
        replayed(source, until=at, progress=progress) as replay,
    ):
        name_unknown(account_ids, replay)
        # The snapshot holds everything that was appended up to this moment.
        return Balances(replay.verdict, replay.rows, replay.certificate, now or datetime.now(UTC))


def history(store: Store, account_id: str) -> History:
    """Return one account's events with running sums; UsageError if the ledger has never seen the account.

    Events behind a gap or a poison event are not shown; the certificate says where the stream stops.
    PointsOverflow if a running sum is past int64.
    """
    with StoreSource.snapshot(store, account_ids=[account_id]) as source, replayed(source, [_EVENTS]) as replay:
        name_unknown([account_id], replay)
        events = replay.states.value(_EVENTS)
    return History(replay.verdict, _with_running_sums(events.sort("version")), replay.certificate)


_DETAILS = ("recorded_at", "transaction_id")

#: The events themselves as a projection: a stream is its own state.
_EVENTS = Projection(
    name="events",
    version=1,
    key=("account_id", "version"),
    schema=pl.Schema(
        {name: dtype for name, dtype in EVENT_SCHEMA.items() if name in _DETAILS or name not in DETAIL_COLUMNS}
    ),
    details=_DETAILS,
    fold=lambda events: events,
    merge=lambda left, right: pl.concat([left, right]),
)


def name_unknown(account_ids: Sequence[str], replay: Replay) -> None:
    """UsageError that names the accounts that a replay has never seen."""
    known = {*replay.gate.last["account_id"], *replay.parked_ids}
    unknown = sorted(set(account_ids) - known)
    if unknown:
        raise UsageError(
            f"no account {', '.join(map(repr, unknown))} in the ledger", next_step="check the id, or import it first"
        )


def _with_running_sums(events: pl.DataFrame) -> pl.DataFrame:
    """Add what each event leaves: the fold of the events one by one, as running sums."""
    single = events.with_columns(account_id=pl.col("version").cast(pl.String))
    deltas = BALANCES.fold(single.lazy()).select("version", "balance", "frozen").collect()
    summed = events.join(deltas, on="version", how="left", maintain_order="left").with_columns(
        pl.col("balance", "frozen").cum_sum()
    )
    past = summed.filter(~pl.all_horizontal(pl.col("balance", "frozen").is_between(-(2**63), 2**63 - 1)))
    if past.height:
        where = f"account {past['account_id'][0]}, version {past['version'][0]}"
        raise PointsOverflow("a running sum is past int64", where=where, next_step="see `verify` for the account")
    return summed.with_columns(pl.col("balance", "frozen").cast(pl.Int64)).select(HISTORY_COLUMNS)

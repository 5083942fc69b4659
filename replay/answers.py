"""Answers about accounts, straight from the events: balances of some or all, and one account's history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import polars as pl

from ledger.store import Store
from projections import BALANCES, Projection
from replay.certificate import INCOMPLETE, Certificate
from replay.digest import digest
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.moment import Moment, Time, in_utc
from replay.store_source import StoreSource
from schemas.columns import DETAIL_COLUMNS, EVENT_SCHEMA
from schemas.errors import PointsOverflow, UsageError

__all__ = [
    "EVENTS",
    "HISTORY_COLUMNS",
    "Balances",
    "History",
    "answered",
    "balances",
    "history",
    "history_of",
    "name_unknown",
    "wanted",
]

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
    """Balances rows in account order; `watermark` is the moment up to which the source is known to be whole.

    `moment` is what was asked for, None where all events count.
    """

    verdict: str
    rows: pl.DataFrame
    certificate: Certificate
    watermark: datetime | None
    moment: Moment | None = None

    @property
    def is_past_watermark(self) -> bool:
        """Whether the moment is one up to which the source is not known to be whole: then there are no rows."""
        return self.moment is not None and self.moment.is_past(self.watermark)


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
    as_of: Time | None = None,
    recorded_as_of: Time | None = None,
    progress: Progress | None = None,
    now: Time | None = None,
) -> Balances:
    """Return the balances of some accounts (default: all) as the events say, at a position (default: the head).

    Of these events count those that happened up to `as_of` and were recorded up to `recorded_as_of`, both inclusive;
    `version` and `last_effective_at` are of the events that count, and an account with none of them has no row. The
    store is whole up to `now`; a moment after that gives INCOMPLETE and no row at all. Times are datetimes with a zone,
    or their text in ISO 8601.

    An account that is parked has no row; the certificate names it and the verdict is INCOMPLETE. UsageError
    names an account that the ledger has never seen.
    """
    account_ids = wanted(account_ids)
    moment = Moment.asked(as_of, recorded_as_of)
    # The snapshot that follows holds everything that was appended up to this moment.
    watermark = in_utc(now, "now") or datetime.now(UTC)
    with (
        StoreSource.snapshot(store, account_ids=account_ids or None) as source,
        replayed(source, until=at, moment=moment, progress=progress) as replay,
    ):
        name_unknown(account_ids, replay)
        return answered(replay, replay.rows, watermark, moment)


def answered(replay: Replay, rows: pl.DataFrame, watermark: datetime | None, moment: Moment | None) -> Balances:
    """Return rows of a replay as the answer; where the moment is past the watermark, INCOMPLETE without any row."""
    found = Balances(replay.verdict, rows, replay.certificate, watermark, moment)
    if not found.is_past_watermark:
        return found
    nothing = rows.clear()
    # The digest is of what is shown: nobody shall compare one of rows that may yet change.
    certificate = msgspec.structs.replace(replay.certificate, digest=digest(nothing))
    return Balances(INCOMPLETE, nothing, certificate, watermark, moment)


def history(store: Store, account_id: str) -> History:
    """Return one account's events with running sums; UsageError if the ledger has never seen the account.

    Events behind a gap or a poison event are not shown; the certificate says where the stream stops.
    PointsOverflow if a running sum is past int64.
    """
    with StoreSource.snapshot(store, account_ids=[account_id]) as source, replayed(source, [EVENTS]) as replay:
        name_unknown([account_id], replay)
        return history_of(replay)


def history_of(replay: Replay) -> History:
    """Return the history of the one account that was replayed, with `EVENTS`; PointsOverflow as `history`."""
    events = replay.states.value(EVENTS).sort("version")
    return History(replay.verdict, _with_running_sums(events), replay.certificate)


_DETAILS = ("recorded_at", "transaction_id")

_EVENTS_SCHEMA = pl.Schema(
    {name: dtype for name, dtype in EVENT_SCHEMA.items() if name in _DETAILS or name not in DETAIL_COLUMNS}
)

#: The events themselves as a projection: a stream is its own state.
EVENTS = Projection(
    name="events",
    version=1,
    key=("account_id", "version"),
    schema=_EVENTS_SCHEMA,
    details=_DETAILS,
    fold=lambda events: events.select(_EVENTS_SCHEMA.names()),
    merge=lambda left, right: pl.concat([left, right]),
)


def wanted(account_ids: Sequence[str]) -> list[str]:
    """Return the accounts that are asked for; a string by itself is the id of one. UsageError for what is no id."""
    found = [account_ids] if isinstance(account_ids, str) else list(account_ids)
    wrong = [each for each in found if not isinstance(each, str)]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is no account id", next_step="give their ids as text")
    return found


def name_unknown(account_ids: Sequence[str], replay: Replay) -> None:
    """UsageError that names the accounts that a replay has never seen; what was damaged may have had any."""
    known = {*replay.gate.last["account_id"], *replay.parked_ids}
    unknown = sorted(each for each in set(account_ids) - known if not replay.certificate.may_have_lost(each))
    if not unknown:
        return
    names = ", ".join(map(repr, unknown))
    if replay.certificate.source == "archive":
        step = "check the id, or bring the archive up to date with `archive`"
        raise UsageError(f"no account {names} in the archive", next_step=step)
    raise UsageError(f"no account {names} in the ledger", next_step="check the id, or import it first")


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

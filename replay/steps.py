"""The third opinion: accounts replayed alone, step by step, each step with what its event is worth and what it leaves.

Whoever asks for a row of single accounts, as of any version, position or transaction, filters these steps. An event's
worth is the fold of that event as an account of its own, by the very projections that the read model is made with;
what it leaves is the running merge of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from ledger.read_model import ROW_SCHEMA
from projections import ACCOUNT_STATUS, BALANCES, account_rows, overflowed
from replay.certificate import Position
from replay.full_replay import overflows
from replay.gate import Gate, Parked
from replay.source import Batch
from schemas.chain import GENESIS, chain
from schemas.columns import EVENT_SCHEMA, RAW_SCHEMA

__all__ = ["STEPS_SCHEMA", "SUMS", "Accounts", "AccountsSource", "Steps", "steps"]

SUMS = ("balance", "frozen", "pending_credit", "pending_debit")

_DETAILS = ("recorded_at", "transaction_id", "event_id")
_EVENT = (
    "account_id",
    "version",
    "position",
    "event",
    "event_id",
    "transaction_id",
    "type",
    "amount",
    "from_status",
    "to_status",
    "effective_at",
    "recorded_at",
)
#: What a status event says of its account, all of it from the last such event.
_OF_STATUS = ("status", "locked_at", "status_version")

#: One step: the event, its worth in each sum, and the columns of `ROW_SCHEMA` after it, sums wide.
STEPS_SCHEMA = pl.Schema(
    {
        **{name: EVENT_SCHEMA[name] for name in _EVENT},
        **dict.fromkeys(SUMS, pl.Int128()),
        **{f"told_{name}": ROW_SCHEMA[name] for name in ("status", "locked_at", "closed_version")},
        **dict.fromkeys((f"after_{name}" for name in SUMS), pl.Int128()),
        **{f"after_{name}": ROW_SCHEMA[name] for name in (*_OF_STATUS, "closed_version", "last_effective_at", "chain")},
    }
)


class Accounts(Protocol):
    """A source narrowed to some accounts, see `replay.source.Source`; only the kind of position may be another."""

    def read(self, *, after: int, until: int, details: tuple[str, ...]) -> Iterator[Batch]:
        """Yield their events after `after` until `until`, in order."""

    def ends(self, until: int) -> pl.DataFrame | None:
        """Return where each of them should end, None where the source cannot know."""

    def copies(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return every copy that the source holds of some events."""


class AccountsSource(Protocol):
    """A source that can be narrowed to some accounts."""

    def of_accounts(self, account_ids: Sequence[str]) -> Accounts:
        """Return the same moment of the source, narrowed."""


@dataclass(frozen=True)
class Steps:
    """Accounts replayed alone.

    `frame` (`STEPS_SCHEMA`) has one row an event that the gate let through, sorted by `account_id` and `version`.
    Beside the event it has what the event is worth (`balance`, `frozen`, `pending_credit`, `pending_debit`), what it
    alone says of the status (`told_status`, `told_locked_at`, `told_closed_version`, null of most), and the account
    after it (`after_` before the columns of a row of the read model; `after_status` is active before the first status
    event). `parked` are the accounts that the source cannot vouch for, by id: their steps end before the damage.
    """

    frame: pl.DataFrame
    parked: dict[str, Parked] = field(default_factory=dict)

    def rows(self, at: pl.Expr | None = None) -> pl.DataFrame:
        """Return the last step of each account that `at` lets through, as rows of the read model (`ROW_SCHEMA`).

        Sorted by account. An account has no row where no step is let through, and none where a sum is past int64 at
        that step: a replay up to there would park it.
        """
        let_through = self.frame if at is None else self.frame.filter(at)
        is_last = pl.col("account_id").ne_missing(pl.col("account_id").shift(-1))
        last = let_through.filter(is_last).lazy()
        states = last.select(
            "account_id", "version", *(pl.col(f"after_{name}").alias(name) for name in (*SUMS, "last_effective_at"))
        )
        fits = states.join(overflowed(states), on="account_id", how="anti")
        status = last.filter(pl.col("after_status_version").is_not_null()).select(
            "account_id", *(pl.col(f"after_{name}").alias(name) for name in (*_OF_STATUS, "closed_version"))
        )
        chains = last.select("account_id", chain="after_chain")
        rows = account_rows(fits, status).join(chains, on="account_id", how="left")
        return rows.select(ROW_SCHEMA.names()).sort("account_id").collect()


def steps(source: AccountsSource, account_ids: Sequence[str], *, until: Position) -> Steps:
    """Replay some accounts of a source alone, from their beginning up to a position, through the gate.

    Memory grows with the events of these accounts. An account that the source has never seen has no step; it is parked
    only where the source knows that it should have been there.
    """
    narrowed = source.of_accounts(account_ids)
    gate = Gate()
    # The position is handed through: what it means is between the caller and the source.
    batches = narrowed.read(after=0, until=until, details=_DETAILS)  # type: ignore[arg-type]
    admitted = [_with_own_bytes(gate.admit(batch.events, batch.poison)) for batch in batches]
    frame = _stepped(pl.concat([_no_events(), *admitted], how="diagonal"))
    found = Steps(frame, gate.parked(narrowed.ends(until), narrowed.copies))  # type: ignore[arg-type]
    for past in overflows(_last_sums(frame)):
        found.parked.setdefault(past.account_id, past)
    return found


def _no_events() -> pl.DataFrame:
    return pl.DataFrame(schema={name: EVENT_SCHEMA[name] for name in _EVENT} | {"chain": RAW_SCHEMA["chain"]})


def _with_own_bytes(events: pl.DataFrame) -> pl.DataFrame:
    """Keep the bytes only of events without a chain, which is then made of them."""
    columns = [*_EVENT, "chain"]
    return events.select(columns if events["chain"].null_count() == 0 else [*columns, "state"])


def _stepped(events: pl.DataFrame) -> pl.DataFrame:
    ordered = _chained(events.sort("account_id", "version")).with_row_index("row")
    # Each event as an account of its own: its fold is its worth, and the status that it gives.
    single = ordered.lazy().with_columns(account_id="row")
    worth, status = pl.collect_all([BALANCES.fold(single).sort("account_id"), ACCOUNT_STATUS.fold(single)])
    told = status.rename({name: "row" if name == "account_id" else f"told_{name}" for name in status.columns})
    whole = pl.concat([ordered, worth.select(SUMS)], how="horizontal").join(
        told, on="row", how="left", maintain_order="left"
    )
    # The row of the last status event up to here: null before the first one.
    said = pl.when(pl.col("told_status_version").is_not_null()).then("row").forward_fill().over("account_id")
    return (
        whole.with_columns(said=said)
        .with_columns(
            *(pl.col(name).cum_sum().over("account_id").alias(f"after_{name}") for name in SUMS),
            *(pl.col(f"told_{name}").gather(pl.col("said")).alias(f"after_{name}") for name in _OF_STATUS),
            after_closed_version=pl.col("told_closed_version").cum_min().forward_fill().over("account_id"),
            after_last_effective_at=pl.col("effective_at").cum_max().over("account_id"),
            after_chain="chain",
        )
        .with_columns(pl.col("after_status").fill_null("active"))
        .select(STEPS_SCHEMA.names())
    )


def _chained(ordered: pl.DataFrame) -> pl.DataFrame:
    """Make the chain of events that came without one, from their bytes; null from where an event has none."""
    if ordered["chain"].null_count() == 0:
        return ordered
    made: list[bytes | None] = []
    of, link = None, None
    for account_id, told, state in ordered.select("account_id", "chain", "state").iter_rows():
        before = link if account_id == of else GENESIS
        link = told if told is not None or before is None or state is None else chain(before, state)
        of = account_id
        made.append(link)
    return ordered.with_columns(chain=pl.Series(made, dtype=pl.Binary()))


def _last_sums(frame: pl.DataFrame) -> pl.DataFrame:
    """The sums of each account after its last step, as a state of `BALANCES`."""
    last = frame.group_by("account_id").last()
    return last.select("account_id", "version", *(pl.col(f"after_{name}").alias(name) for name in SUMS))

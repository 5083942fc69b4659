"""What events make of rows of the read model: the gate, the folds and the merge of a full replay, on rows.

The state of an account lives in its row, so a batch needs the rows of its accounts and nothing else. Folding touches
no database, so it can be done before a write transaction begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from projections import ACCOUNT_STATUS, BALANCES, account_rows
from replay.full_replay import overflows
from replay.gate import Gate, Parked
from schemas import PoisonEvent

__all__ = ["PARKED_SCHEMA", "Beside", "Folded", "fold", "parked_frame", "stored_rows", "touched", "write"]

#: A batch is small: the streaming engine takes longer to begin than this one needs for all of it.
ENGINE: Final = "in-memory"

#: What is parked, as `ledger_parked` keeps it: the first version that is not in the row, and why.
PARKED_SCHEMA = pl.Schema({"account_id": pl.String(), "version": pl.Int64(), "reason": pl.String()})


class Beside(Protocol):
    """What is kept beside the rows of a shadow, in the transactions that write them."""

    @property
    def details(self) -> tuple[str, ...]:
        """The detail columns of events that it needs."""

    def kept(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return those of a batch's admitted events that it needs."""

    def write(self, connection: Connection, number: int, events: pl.DataFrame) -> None:
        """Write what these events come to beside the rows of a number; the shadow is locked."""


class Folded(NamedTuple):
    """What a batch came to: the rows that it `changed` (`ROW_SCHEMA`), the accounts that it leaves parked, by id.

    `account_ids` are those of all accounts that it touched; `repeats` the events that were there before, by account and
    version. `kept` are the admitted events that what is kept beside the rows needs, None where nothing is.
    """

    account_ids: pl.Series
    changed: pl.DataFrame
    parked: dict[str, Parked]
    repeats: pl.DataFrame
    kept: pl.DataFrame | None = None


def touched(events: pl.DataFrame, poison: list[PoisonEvent]) -> pl.Series:
    """Return the `account_id` of each account that events are of, readable or not, in no order."""
    keys = [events["account_id"], pl.Series([found.account_id for found in poison], dtype=pl.String())]
    return pl.concat(keys).unique().drop_nulls()


def fold(
    rows: pl.DataFrame,
    events: pl.DataFrame,
    poison: list[PoisonEvent],
    *,
    copies: Callable[[pl.DataFrame], pl.DataFrame],
    links: bool = False,
    beside: Beside | None = None,
) -> Folded:
    """Return what events and poison events make of the rows (`ROW_SCHEMA`) of all accounts that they touch.

    `copies` and `links` are those of `replay.gate.Gate`. A repeat was folded before, and a hole or a poison event
    parks; lost ends are for heads to find, which a batch does not look at.
    """
    gate = Gate(last=rows.select("account_id", "version", "chain"), links=links)
    admitted = gate.admit(events, poison)
    parked = gate.parked(None, copies)
    moved = admitted.lazy().select("account_id").unique()
    merged = BALANCES.merge(_balances_of(rows), BALANCES.fold(admitted.lazy()))
    balances = merged.join(moved, on="account_id", how="semi").collect(engine=ENGINE)
    past = overflows(balances, engine=ENGINE)
    for found in past:
        parked.setdefault(found.account_id, found)
    if past:
        balances = balances.filter(~pl.col("account_id").is_in([found.account_id for found in past]))
    finished = account_rows(balances.lazy(), _status_after(rows, admitted))
    chains = gate.last.lazy().select("account_id", "chain")
    rows_after = finished.join(chains, on="account_id", how="left").select(read_model.ROW_SCHEMA.names())
    changed = rows_after.collect(engine=ENGINE)
    kept = None if beside is None else beside.kept(admitted)
    return Folded(touched(events, poison), changed, parked, gate.repeats, kept)


def write(connection: Connection, number: int, folded: Folded, beside: Beside | None = None) -> None:
    """Write what a batch came to into the rows of a number: changed rows, what is parked among its accounts, the rest.

    `beside` is that of `fold`.
    """
    if beside is not None and folded.kept is not None:
        beside.write(connection, number, folded.kept)
    read_model.write_rows(connection, number, folded.changed)
    parked = read_model.parked(connection, number)
    again = parked.join(folded.account_ids.to_frame(), on="account_id", how="semi")["account_id"].sort().to_list()
    if again or folded.parked:
        read_model.replace_parked(connection, number, again, parked_frame(folded.parked.values()))


def parked_frame(parked: Iterable[Parked]) -> pl.DataFrame:
    """Return parked accounts as the read model keeps them (`PARKED_SCHEMA`)."""
    noted = [(found.account_id, found.version, found.reason) for found in parked]
    return pl.DataFrame(noted, schema=PARKED_SCHEMA, orient="row")


def stored_rows(rows: pl.DataFrame, gate: Gate) -> pl.DataFrame:
    """Return replayed balances rows as the read model stores them: with the chain at their version."""
    return rows.join(gate.last.select("account_id", "chain"), on="account_id", how="left").select(
        read_model.ROW_SCHEMA.names()
    )


def _balances_of(rows: pl.DataFrame) -> pl.LazyFrame:
    """The state of `BALANCES` that rows of the read model stand for."""
    return rows.lazy().select(pl.col(name).cast(dtype) for name, dtype in BALANCES.schema.items())


def _status_after(rows: pl.DataFrame, admitted: pl.DataFrame) -> pl.LazyFrame:
    """The state of `ACCOUNT_STATUS` of rows and the events after them."""
    known = rows.lazy().filter(pl.col("status_version").is_not_null())
    before = known.select(pl.col(name).cast(dtype) for name, dtype in ACCOUNT_STATUS.schema.items())
    new = ACCOUNT_STATUS.fold(admitted.lazy()).collect(engine=ENGINE)
    # Events that lock, unlock or close are rare.
    return before if new.is_empty() else ACCOUNT_STATUS.merge(before, new.lazy())

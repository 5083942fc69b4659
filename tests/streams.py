"""Event batches as a source gives them, made row by row, and a gate that is fed with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import polars as pl
from samples import recorded

from ledger import GENESIS, chain
from replay import Gate, Parked
from schemas import RAW_SCHEMA, PoisonEvent, decode_batch, encode

__all__ = ["Fed", "at", "broken", "ends_of", "events_of", "fed"]


class Row(NamedTuple):
    """One event of a stream: its key, its content (an amount), and whether the source says it is something else."""

    account_id: str
    version: int
    amount: int = 10
    is_poison: bool = False
    is_broken: bool = False


class Fed(NamedTuple):
    """What became of a stream: the events let through, in order, the parked accounts, and the gate itself."""

    admitted: list[tuple[str, int, int]]
    parked: dict[str, Parked]
    gate: Gate


def at(account_id: str, *versions: int, amount: int = 10) -> list[Row]:
    """Events of one account with these versions."""
    return [Row(account_id, version, amount) for version in versions]


def broken(account_id: str, version: int) -> Row:
    """An event that cannot be read."""
    return Row(account_id, version, is_poison=True)


def events_of(rows: Sequence[Row], *, chained: bool = False) -> tuple[pl.DataFrame, list[PoisonEvent]]:
    """Return rows as one decoded batch with positions from 1, and what of it is poison.

    A chained source gives the hash chain over each account's rows in version order, wrong where `is_broken`.
    """
    links: dict[tuple[str, int], bytes] = {}
    states = [b"{}" if row.is_poison else encode(recorded(row.account_id, row.version, row.amount)) for row in rows]
    for row, state in sorted(zip(rows, states, strict=True), key=lambda pair: pair[0].version):
        links[row.account_id, row.version] = chain(links.get((row.account_id, row.version - 1), GENESIS), state)
    raw = [
        (
            position,
            row.account_id,
            row.version,
            state,
            (b"\x00" * 32 if row.is_broken else links[row.account_id, row.version]) if chained else None,
        )
        for position, (row, state) in enumerate(zip(rows, states, strict=True), start=1)
    ]
    return decode_batch(pl.DataFrame(raw, schema=RAW_SCHEMA, orient="row"))


def ends_of(ends: dict[str, int], chains: dict[str, bytes] | None = None) -> pl.DataFrame:
    """Return heads as a source gives them, without chains where none are given."""
    rows = [(account_id, version, (chains or {}).get(account_id)) for account_id, version in ends.items()]
    schema = {"account_id": pl.String, "version": pl.Int64, "chain": pl.Binary}
    return pl.DataFrame(rows, schema=schema, orient="row")


def fed(
    rows: Sequence[Row], cuts: Iterable[int] = (), *, ends: pl.DataFrame | None = None, chained: bool = False
) -> Fed:
    """Feed rows to a gate, in batches cut before the given places (0-based), and return what became of them."""
    events, poison = events_of(rows, chained=chained)
    edges = [0, *sorted(cuts), len(rows)]
    gate = Gate()
    admitted = []
    for start, end in pairwise(edges):
        inside = pl.col("position").is_between(start + 1, end)
        batch = gate.admit(events.filter(inside), [p for p in poison if start < p.position <= end])
        admitted += batch.select("account_id", "version", "position").rows()

    def copies(keys: pl.DataFrame) -> pl.DataFrame:
        return events.join(keys.unique(), on=["account_id", "version"], how="semi").select(
            "account_id", "version", "state"
        )

    return Fed(admitted, gate.parked(ends, copies), gate)

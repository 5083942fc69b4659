"""Drift: live rows against a replay at one position, every account and every column, and why they differ.

Our own read model is compared at exactly its position; a copy of a foreign live table is compared at the head.
An account that the log cannot vouch for is `uncompared`, never equal. A read model whose position is past the head has
events that the store lost: its rows are compared at the head, and never equal as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import polars as pl

from ledger import read_model
from ledger.store import Store
from replay.certificate import Certificate
from replay.comparison.own_rows import Stored, past_head
from replay.comparison.own_typed import sorted_out, stored, strange
from replay.differences import FOREIGN_FIELDS, OWN_FIELDS, Drifted, differs
from replay.engine import Progress
from replay.explain import entries, explain_accounts
from replay.full_replay import Replay, replayed
from replay.rows import stored_rows
from replay.store_source import StoreSource
from schemas.errors import RefusedError, UsageError

__all__ = ["Drift", "Drifted", "drift"]

EQUAL, DRIFT, INCOMPARABLE = "EQUAL", "DRIFT", "INCOMPARABLE"

#: Accounts that the two sides are put side by side for at once.
_COMPARED_ROWS = 100_000


@dataclass(frozen=True)
class Drift:
    """The comparison: accounts compared, accounts that differ, each difference, and what could not be compared.

    `why_not` is the first reason why some account could not, or why not one is certain; empty where only the
    certificate says it.
    """

    verdict: str
    live: str
    compared: int
    drifted: int
    accounts: list[Drifted]
    suspected: list[str]
    uncompared: list[str]
    certificate: Certificate
    why_not: str = ""


def drift(
    store: Store,
    *,
    live: Literal["imported", "read_model"] | pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> Drift:
    """Compare live rows with a replay.

    `live` is `imported` (the copy that `import accounts` made), `read_model` (our own live generation), a frame
    of foreign rows (`account_id`, `balance`, `frozen`, `status`, `locked_at`), or None: the imported rows if
    there are any, else our own read model. A foreign row without `locked_at` is not compared in it, since its table
    may know no such thing. A row of our own read model with a value that no writer of ours writes is drift, as any that
    differs. UsageError if there is nothing to compare.
    """
    with StoreSource.snapshot(store) as source:
        side = _live_side(source, live)
        # A log that lost its tail ends before the read model; the heads name the accounts that it lost.
        head = source.head()
        until = None if side.position is None else min(side.position, head)
        with replayed(source, until=until, progress=progress) as replay:
            found = _compared(source, side, replay)
        if side.position is None or side.position <= head:
            return found
        return replace(found, verdict=INCOMPARABLE, why_not=past_head(side.position, head))


@dataclass(frozen=True)
class _Side:
    """The live side: its rows, the columns that count, and the position it claims (None: the head).

    `strange` are rows with a value that no writer of ours writes, as they are stored; they are not in `rows`.
    """

    name: str
    rows: pl.DataFrame
    fields: tuple[str, ...]
    position: int | None
    strange: dict[str, Stored] = field(default_factory=dict)


def _live_side(source: StoreSource, live: str | pl.DataFrame | None) -> _Side:
    if isinstance(live, pl.DataFrame):
        return _Side("foreign", live, FOREIGN_FIELDS, None)
    imported = read_model.imported(source.connection)
    if live == "imported" or (live is None and imported.height):
        return _Side("imported", imported, FOREIGN_FIELDS, None)
    own = read_model.live(source.connection)
    if own is None:
        raise UsageError("there are no live rows to compare", next_step="`import accounts FILE` or `project` first")
    try:
        return _Side("read_model", read_model.rows(source.connection, own.generation), OWN_FIELDS, own.position)
    except RefusedError:
        # Row by row, which takes longer: what one row has by hand hides no other.
        rows, others = sorted_out(source.connection, own.generation)
        return _Side("read_model", rows, OWN_FIELDS, own.position, others)


def _compared(source: StoreSource, side: _Side, replay: Replay) -> Drift:
    parked = replay.parked_ids
    others = {name: side.strange[name] for name in side.strange if name not in parked}
    live = side.rows.filter(~pl.col("account_id").is_in(parked)).sort("account_id")
    said = stored_rows(replay.rows, replay.gate).sort("account_id")
    is_other = pl.col("account_id").is_in(list(others))
    beside, said = stored(said.filter(is_other)), said.filter(~is_other)
    found = [each for name, row in others.items() for each in strange(name, row, beside.get(name), "foreign_write")]
    # A row that one side does not have is null there, and so differs in its balance.
    is_wrong = pl.any_horizontal(differs(name, side.fields) for name in side.fields)
    compared, parts = 0, []
    for mine, its in _side_by_side(live, said.rename(lambda name: f"replayed_{name}")):
        both = mine.join(its, left_on="account_id", right_on="replayed_account_id", how="full", coalesce=True)
        compared += both.height
        parts.append(both.filter(is_wrong))
    wrong = pl.concat(parts).sort("account_id")
    causes = explain_accounts(source, wrong, until=replay.certificate.store_position, fields=side.fields)
    return Drift(
        verdict=INCOMPARABLE if parked else DRIFT if others or wrong.height else EQUAL,
        live=side.name,
        compared=compared + len(others),
        drifted=wrong.height + len(others),
        accounts=sorted(entries(wrong, causes, fields=side.fields) + found, key=lambda each: each.account_id),
        suspected=[],
        uncompared=parked,
        certificate=replay.certificate,
    )


def _side_by_side(live: pl.DataFrame, said: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield the rows of one range of keys after the other: a join of all of them would hold both sides once more."""
    firsts = range(_COMPARED_ROWS, said.height, _COMPARED_ROWS)
    keys = said["replayed_account_id"].gather(list(firsts))
    cuts = live["account_id"].search_sorted(keys, side="left").to_list()
    for (start, end), (first, last) in zip(
        pairwise([0, *cuts, live.height]), pairwise([0, *firsts, said.height]), strict=True
    ):
        yield live[start:end], said[first:last]

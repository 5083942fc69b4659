"""Events that the store has lost, put back from an export where the hash chain proves that they are the same.

The chain after a lost event is made of the chain before it and its bytes. It is the right one if what follows proves
it: the next stored event's chain, made from it and that event's bytes, or, at the end of the stream, the head's.
Lost events in a row are proved together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, select
from sqlalchemy.types import LargeBinary

from ledger import bulk
from ledger.store import GENESIS, Store, chain
from ledger.tables import EVENTS
from schemas.columns import RAW_SCHEMA

__all__ = ["STORED_ROWS", "Line", "Lost", "Refusal", "Restored", "lines_of", "stored_events"]

STORED_ROWS = {name: RAW_SCHEMA[name] for name in ("account_id", "version")} | {
    "topic": pl.String(),
    "state": pl.Binary(),
    "chain": pl.Binary(),
}
_FOUND = {name: STORED_ROWS[name] for name in ("account_id", "version", "state", "chain")}
_KEYS = Table(
    "imported_event_keys",
    MetaData(),
    Column("account_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
)

_Key = tuple[str, int]


class Line(NamedTuple):
    """A line of an export that is an event: its number, the event's key and tag, and its wire bytes."""

    number: int
    account_id: str
    version: int
    tag: str
    state: bytes


class Refusal(NamedTuple):
    """A line that is not taken, and why; `is_conflict` where it contradicts what the ledger holds or vouches for."""

    line: Line
    reason: str
    is_conflict: bool


class Restored(NamedTuple):
    """Events put back (or that would be), lines that say what is stored by now, and lines refused.

    `restored`: each line with what was lost: a `hole` before events that are there, the `tail` of a stream, or the
    whole stream of an `account`.
    """

    restored: list[tuple[Line, str]]
    unchanged: int
    refused: list[Refusal]


def lines_of(events: pl.DataFrame) -> list[Line]:
    """Return decoded events as lines, `position` being the number."""
    columns = events.select("position", "account_id", "version", "event", "state")
    return list(map(Line._make, columns.iter_rows()))


def stored_events(connection: Connection, keys: pl.DataFrame) -> pl.DataFrame:
    """Return what the store has for some keys (`account_id`, `version`): these, `state` and `chain`."""
    if keys.is_empty():
        return pl.DataFrame(schema=_FOUND)
    _KEYS.create(connection, checkfirst=False)
    bulk.insert_rows(connection, _KEYS, keys.unique())
    same = (EVENTS.c.originator_id == _KEYS.c.account_id) & (EVENTS.c.originator_version == _KEYS.c.version)
    columns = (EVENTS.c.state.cast(LargeBinary), EVENTS.c.chain.cast(LargeBinary))
    statement = select(_KEYS.c.account_id, _KEYS.c.version, *columns).join_from(_KEYS, EVENTS, same)
    found = bulk.select_rows(connection, statement, _FOUND)
    _KEYS.drop(connection)
    return found


class Lost:
    """Lines about events that the store should have and has not; memory grows with these."""

    def __init__(self) -> None:
        self._lines: dict[_Key, Line] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, line: Line) -> bytes | None:
        """Keep a line, and return None; or the bytes of the line of the same event that is kept already."""
        kept = self._lines.setdefault((line.account_id, line.version), line)
        return None if kept is line else kept.state

    def restore(self, store: Store, connection: Connection, *, dry_run: bool) -> Restored:
        """Put back what is proved; the caller holds the append lock, except in a dry run."""
        keys = [key for account_id, version in self._lines for key in _around(account_id, version)]
        found = stored_events(connection, pl.DataFrame(keys, schema=_keys_schema(), orient="row"))
        stored = {(account_id, version): (state, link) for account_id, version, state, link in found.iter_rows()}
        accounts = list(dict.fromkeys(account_id for account_id, _ in self._lines))
        heads = {row[0]: (row[1], row[2]) for row in store.heads(connection, accounts).iter_rows()}
        rows: list[tuple[str, int, str, bytes, bytes]] = []
        restored: list[tuple[Line, str]] = []
        refused: list[Refusal] = []
        # Someone else may have put an event back since the line was read.
        known = {key: line for key, line in self._lines.items() if key in stored}
        for key, line in known.items():
            if stored[key][0] != line.state:
                reason = f"conflicting: version {line.version} is stored with other bytes"
                refused.append(Refusal(line, reason, is_conflict=True))
        unchanged = len(known) - len(refused)
        for run in self._runs(known):
            head = heads.get(run[0].account_id, (0, GENESIS))
            links, problem, is_conflict = _proved(run, stored, head)
            if problem:
                refused += [Refusal(line, problem, is_conflict) for line in run]
            else:
                lost = _what_was_lost(run, head[0])
                restored += [(line, lost) for line in run]
                pairs = zip(run, links, strict=True)
                rows += [(line.account_id, line.version, line.tag, line.state, link) for line, link in pairs]
        if rows and not dry_run:
            # The heads stand where they stood: only what is behind them comes back.
            names = {"account_id": "originator_id", "version": "originator_version"}
            bulk.insert_rows(connection, EVENTS, pl.DataFrame(rows, schema=STORED_ROWS, orient="row").rename(names))
        return Restored(restored, unchanged, refused)

    def _runs(self, known: dict[_Key, Line]) -> Iterator[list[Line]]:
        """Yield the lines of lost events, those whose versions follow one another together."""
        run: list[Line] = []
        for key in sorted(key for key in self._lines if key not in known):
            line = self._lines[key]
            if run and (run[-1].account_id, run[-1].version + 1) != key:
                yield run
                run = []
            run.append(line)
        if run:
            yield run


def _keys_schema() -> dict[str, pl.DataType]:
    return {name: STORED_ROWS[name] for name in ("account_id", "version")}


def _around(account_id: str, version: int) -> list[_Key]:
    return [(account_id, version - 1), (account_id, version), (account_id, version + 1)]


def _what_was_lost(run: list[Line], head: int) -> str:
    if run[-1].version < head:
        return "hole"
    return "account" if run[0].version == 1 else "tail"


def _proved(
    run: list[Line], stored: dict[_Key, tuple[bytes, bytes]], head: tuple[int, bytes]
) -> tuple[list[bytes], str, bool]:
    """Return the chains after the events of a run, why they are not proved, and whether they are disproved."""
    account_id, first, last = run[0].account_id, run[0].version, run[-1].version
    before = (b"", GENESIS) if first == 1 else stored.get((account_id, first - 1))
    if before is None:
        return [], f"version {first - 1} of account {account_id!r} is lost too, so nothing proves this one", False
    links, link = [], before[1]
    for line in run:
        link = chain(link, line.state)
        links.append(link)
    if last == head[0]:
        is_proved = link == head[1]
    elif (account_id, last + 1) not in stored:
        return [], f"version {last + 1} of account {account_id!r} is lost too, so nothing proves this one", False
    else:
        state, after = stored[account_id, last + 1]
        is_proved = chain(link, state) == after
    if is_proved:
        return links, "", False
    those = "this is" if len(run) == 1 else f"versions {first} to {last} are"
    return [], f"conflicting: not the event that was appended ({those} not what the hash chain goes on from)", True

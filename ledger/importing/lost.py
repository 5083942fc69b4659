"""Events that the store has lost or has damaged, put back where the hash chain proves that they are the same.

The chain after a lost event is made of the chain before it and its bytes. It is the right one if what follows proves
it: the next stored event's chain, made from it and that event's bytes, or, at the end of the stream, the head's.
Lost events in a row are proved together. A stored event is damaged if the chain that was stored with it is made of
the chain before it and the export's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, bindparam, select, update
from sqlalchemy.types import LargeBinary

from ledger import bulk
from ledger.store import GENESIS, Store, chain
from ledger.tables import EVENTS
from schemas.columns import RAW_SCHEMA
from schemas.errors import StoreError

__all__ = ["STORED_ROWS", "Line", "Lost", "Refusal", "Restored", "contrary", "lines_of", "stored_events"]

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
#: Only where the bytes are still those that were judged.
_MEND = (
    update(EVENTS)
    .where(
        EVENTS.c.originator_id == bindparam("of_account"),
        EVENTS.c.originator_version == bindparam("of_version"),
        EVENTS.c.state.cast(LargeBinary) == bindparam("own", type_=LargeBinary),
    )
    .values(state=bindparam("right", type_=LargeBinary))
)

_Key = tuple[str, int]
_Stored = dict[_Key, tuple[bytes, bytes]]


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

    `restored`: each line with what was lost: a `hole` before events that are there, the `tail` of a stream, the whole
    stream of an `account`, or only the bytes of a `damaged` event.
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


def contrary(account_id: str, version: int, *, before: bytes | None, own: tuple[bytes, bytes], state: bytes) -> str:
    """Return why other bytes than the stored ones are a conflict, "" where the hash chain proves them.

    `own`: the stored bytes and the chain stored with them; `before`: the chain before, None where it is not known.
    """
    reason = f"version {version} of account {account_id!r} is stored with other bytes"
    if before is None:
        return reason
    if chain(before, state) == own[1]:
        return ""
    return f"{reason}; the hash chain proves the stored ones" if chain(before, own[0]) == own[1] else reason


class Lost:
    """Lines about events that the store should have and has not, or has damaged; memory grows with these."""

    def __init__(self) -> None:
        self._lines: dict[_Key, Line] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, line: Line) -> bytes | None:
        """Keep a line, and return None; or the bytes of the line of the same event that is kept already."""
        kept = self._lines.setdefault((line.account_id, line.version), line)
        return None if kept is line else kept.state

    def restore(self, store: Store, connection: Connection, *, dry_run: bool) -> Restored:
        """Put back what is proved; the caller holds the append lock, except in a dry run.

        StoreError if a damaged event is not any more what it was a moment ago, which only a write past the ledger does.
        """
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
        others = {key: line for key, line in known.items() if stored[key][0] != line.state}
        before = {key: link for key in others if (link := _link_before(key, stored)) is not None}
        for run in self._runs(known):
            account_id, after = run[0].account_id, (run[0].account_id, run[-1].version + 1)
            first = _link_before((account_id, run[0].version), stored)
            links, problem, is_conflict = _proved(run, first, _nexts(after, stored, others), heads.get(account_id))
            if problem:
                refused += [Refusal(line, problem, is_conflict) for line in run]
                continue
            lost = _what_was_lost(run, heads.get(account_id, (0, GENESIS))[0])
            restored += [(line, lost) for line in run]
            pairs = zip(run, links, strict=True)
            rows += [(line.account_id, line.version, line.tag, line.state, link) for line, link in pairs]
            before[after] = links[-1]
        damaged = []
        for key, line in others.items():
            if reason := contrary(*key, before=before.get(key), own=stored[key], state=line.state):
                refused.append(Refusal(line, reason, is_conflict=True))
            else:
                damaged.append(line)
        restored += [(line, "damaged") for line in damaged]
        if not dry_run:
            _write(connection, rows, damaged, stored)
        return Restored(restored, len(known) - len(others), refused)

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


def _link_before(key: _Key, stored: _Stored) -> bytes | None:
    account_id, version = key
    return GENESIS if version == 1 else stored.get((account_id, version - 1), (b"", None))[1]


def _nexts(key: _Key, stored: _Stored, others: dict[_Key, Line]) -> list[tuple[bytes, bytes]]:
    """Return what the event after a run may be, with its chain: what is stored, and if that differs the export's."""
    if key not in stored:
        return []
    return [stored[key], *([(others[key].state, stored[key][1])] if key in others else [])]


def _proved(
    run: list[Line], before: bytes | None, nexts: list[tuple[bytes, bytes]], head: tuple[int, bytes] | None
) -> tuple[list[bytes], str, bool]:
    """Return the chains after the events of a run, why they are not proved, and whether they are disproved."""
    account_id, first, last = run[0].account_id, run[0].version, run[-1].version
    if before is None:
        return [], f"version {first - 1} of account {account_id!r} is lost too, so nothing proves this one", False
    links, link = [], before
    for line in run:
        link = chain(link, line.state)
        links.append(link)
    if head is not None and last == head[0]:
        is_proved = link == head[1]
    elif not nexts:
        return [], f"version {last + 1} of account {account_id!r} is lost too, so nothing proves this one", False
    else:
        is_proved = any(chain(link, state) == after for state, after in nexts)
    if is_proved:
        return links, "", False
    those = "this is" if len(run) == 1 else f"versions {first} to {last} are"
    return [], f"conflicting: not the event that was appended ({those} not what the hash chain goes on from)", True


def _write(
    connection: Connection,
    rows: list[tuple[str, int, str, bytes, bytes]],
    damaged: list[Line],
    stored: _Stored,
) -> None:
    """Put lost events back at the end of the store, and damaged ones where they are."""
    if rows:
        # The heads stand where they stood: only what is behind them comes back.
        names = {"account_id": "originator_id", "version": "originator_version"}
        bulk.insert_rows(connection, EVENTS, pl.DataFrame(rows, schema=STORED_ROWS, orient="row").rename(names))
    for line in damaged:
        key = (line.account_id, line.version)
        values = {"of_account": key[0], "of_version": key[1], "own": stored[key][0], "right": line.state}
        if connection.execute(_MEND, values).rowcount != 1:
            raise StoreError(
                f"version {key[1]} of account {key[0]!r} changed while it was healed",
                next_step="see who writes into the store past the ledger, then run it again",
            )

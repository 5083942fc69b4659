"""What an event in wire form, of an export or of a topic, means to the store: next, known, lost, or refused."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger.importing.batches import BadRow
from ledger.importing.json_keys import repeated_key
from ledger.importing.lost import STORED_ROWS, Line, Lost, Refusal, stored_events
from ledger.store import GENESIS, Store, chain
from schemas import decode_batch
from schemas.columns import DETAIL_COLUMNS, RAW_SCHEMA
from schemas.events import Identifier, Version

__all__ = ["DryRun", "EventKey", "Judge", "read_events", "readable"]


class EventKey(msgspec.Struct):
    """What an event in wire form is of: its account and its version there."""

    account_id: Identifier
    version: Version


class DryRun:
    """What a dry run would have appended so far: heads, and a digest of each event."""

    def __init__(self) -> None:
        self.heads: dict[str, tuple[int, bytes]] = {}
        self.digests: dict[tuple[str, int], bytes] = {}


class Judge:
    """Decides the lines of one batch in order, against the heads and the events that the store has.

    `new` are the rows of those to append, as `Store.append_rows` takes them. Lines about events that the store has
    lost go to `lost`; with `dry` the batches before count as appended.
    """

    def __init__(
        self, store: Store, connection: Connection, lines: list[Line], lost: Lost, dry: DryRun | None = None
    ) -> None:
        accounts = list(dict.fromkeys(line.account_id for line in lines))
        heads = store.heads(connection, accounts)
        self._heads: dict[str, tuple[int, bytes]] = {row[0]: (row[1], row[2]) for row in heads.iter_rows()}
        self._dry = dry
        if dry is not None:
            self._heads |= {account: dry.heads[account] for account in accounts if account in dry.heads}
        self._lost = lost
        keys = {name: [getattr(line, name) for line in lines] for name in ("account_id", "version")}
        found = stored_events(connection, pl.DataFrame(keys, schema={name: STORED_ROWS[name] for name in keys}))
        self._stored: dict[tuple[str, int], bytes] = dict(
            zip(zip(found["account_id"], found["version"], strict=True), found["state"], strict=True)
        )
        self.appended: list[Line] = []
        self.links: list[bytes] = []
        self.refused: list[Refusal] = []
        self.unchanged = 0

    @property
    def new(self) -> pl.DataFrame:
        """The events to append (`STORED_ROWS`), in the order in which they were taken."""
        rows = [
            (line.account_id, line.version, line.tag, line.state, link)
            for line, link in zip(self.appended, self.links, strict=True)
        ]
        return pl.DataFrame(rows, schema=STORED_ROWS, orient="row")

    def take(self, line: Line) -> None:
        """Decide one line."""
        account_id, version, state = line.account_id, line.version, line.state
        head, last = self._heads.get(account_id, (0, GENESIS))
        if version > head and (account_id, version) in self._stored:
            self._refuse(line, f"version {version} of account {account_id!r} is stored, but its head says {head}")
        elif version == head + 1:
            self._append(line, chain(last, state))
        elif version > head:
            self._refuse(line, f"version {version} of account {account_id!r} would leave a gap: {head + 1} is expected")
        elif (is_same := self._is_stored(line)) is None:
            before = self._lost.add(line)
            if before == state:
                self.unchanged += 1
            elif before is not None:
                reason = f"conflicting duplicate: the file has version {version} before, with other bytes"
                self._refuse(line, reason, is_conflict=True)
        elif is_same:
            self.unchanged += 1
        else:
            reason = f"conflicting duplicate: version {version} of account {account_id!r} is stored with other bytes"
            self._refuse(line, reason, is_conflict=True)

    def _append(self, line: Line, after: bytes) -> None:
        account_id, version, state = line.account_id, line.version, line.state
        self._heads[account_id] = (version, after)
        self._stored[account_id, version] = state
        self.appended.append(line)
        self.links.append(after)
        if self._dry is not None:
            self._dry.heads[account_id] = (version, after)
            self._dry.digests[account_id, version] = _digest(state)

    def _refuse(self, line: Line, reason: str, *, is_conflict: bool = False) -> None:
        self.refused.append(Refusal(line, reason, is_conflict))

    def _is_stored(self, line: Line) -> bool | None:
        """Say whether the store has (or would have) these bytes, None where it has no event of this version."""
        key = (line.account_id, line.version)
        if key in self._stored:
            return line.state == self._stored[key]
        if self._dry is not None and key in self._dry.digests:
            return self._dry.digests[key] == _digest(line.state)
        return None


def _digest(state: bytes) -> bytes:
    return blake2b(state, digest_size=16).digest()


def read_events(lines: list[tuple[int, bytes]]) -> tuple[pl.DataFrame, list[BadRow]]:
    """Return the numbered lines that are events, decoded strictly, and those that are none with the reason.

    Events have the columns of `decode_batch` with every detail; `position` is the line's number. Their bytes are
    such that every reader takes the same event from them.
    """
    decoder = msgspec.json.Decoder(EventKey)
    rows: list[tuple[int, str | None, int | None, bytes, None]] = []
    for number, data in lines:
        try:
            key = decoder.decode(data)
            rows.append((number, key.account_id, key.version, data, None))
        except (ValueError, RecursionError):
            # The strict decoder says what is wrong with it.
            rows.append((number, None, None, data, None))
    # With every column, since what is appended here is vouched for by its chain from now on.
    decoded = decode_batch(pl.DataFrame(rows, schema=RAW_SCHEMA, orient="row"), DETAIL_COLUMNS)
    texts = dict(lines) if decoded.poison else {}
    bad: list[BadRow] = [
        (poison.position, f"the line is no event: {poison.reason}", readable(texts[poison.position]))
        for poison in decoded.poison
    ]
    events = decoded.events
    problems = pl.Series([_problem(state) for state in events["state"].to_list()], dtype=pl.String)
    if problems.null_count() < len(problems):
        found = events.with_columns(problem=problems).filter(problems.is_not_null())
        columns = found.select("position", "problem", "state").iter_rows()
        bad += [(number, problem, readable(state)) for number, problem, state in columns]
        events = events.filter(problems.is_null())
    return events, bad


def _problem(state: bytes) -> str | None:
    """Return what makes readers of an event that was decoded disagree on it, None where nothing does."""
    try:
        key = repeated_key(state, msgspec.json.decode(state))
    except RecursionError:
        return "the line is nested too deeply for every reader"
    return None if key is None else f"the line has the key {key!r} twice, and readers would not take the same one"


def readable(data: bytes) -> str:
    """Return bytes as text, what is no UTF-8 in them as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")

"""Events into an archive, each exactly once: a target of the engine, with the sequence gate in front.

What the gate lets through is gathered, sorted by account and written as one file, and committed together with the
source's position. Where that run ends between two commits, the next one goes on from the last, and what is already
there is known by its version. Accounts that the gate holds back are named in the archive's state, and read again
until they are whole: of a store from their beginning, as what was lost may be back in its old place, of a topic from
where they stopped. What is known of them from before counts until that was done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import polars as pl
from msgspec import UNSET, UnsetType

from replay.archive.copies import PLACES, Elsewhere
from replay.archive.files import Written
from replay.archive.reading import files_of, need_whole, reading, scan
from replay.archive.schema import ARCHIVE_SCHEMA
from replay.archive.state import State
from replay.archive.table import Archive, Snapshot
from replay.certificate import Position, Unread
from replay.gate import LAST_SCHEMA, Gate, Parked
from replay.source import Batch
from schemas import PoisonEvent
from schemas.columns import DETAIL_COLUMNS
from schemas.errors import PositionMoved, RefusedError

__all__ = ["APPEND_EVENTS", "Appending", "Origin"]

#: Events of one commit: they are sorted in memory, and make one data file.
APPEND_EVENTS = 1_000_000

#: Why an account is parked whose repeats were not compared yet: they are at the end of a run.
UNCOMPARED = "repeat_not_compared"

_COLUMNS = [name for name in ARCHIVE_SCHEMA if name != "chain"]

Copies = Callable[[pl.DataFrame], pl.DataFrame]

_NOTHING_ADDED = "nothing is added to the archive"


class Origin(NamedTuple):
    """The one source of an archive: `store` and the ledger's id, or `topic` and its id; whose events they are."""

    source: str
    source_id: str
    ledger_id: str
    topic: str | None = None


class Appending:
    """The engine's target that brings an archive up to date; `appended` counts the events that went in.

    `repeated` counts the events that came, here, when they had come before: whatever was compared until it grew has to
    be compared again.
    """

    details: tuple[str, ...] = DETAIL_COLUMNS

    def __init__(self, archive: Archive, origin: Origin, *, append_events: int = APPEND_EVENTS) -> None:
        """Take up where the archive is; RefusedError where it has another source, IncompleteError where damaged."""
        self.appended = 0
        self.repeated = 0
        self._archive = archive
        self._origin = origin
        self._append_events = append_events
        self._snapshot = archive.snapshot()
        state = self.state
        if state is not None:
            _same(origin, state)
        self._done = _by_partition(None if state is None else state.position)
        self._reached = dict(self._done)
        # What comes from a topic has no chain of its own.
        links = origin.source == "topic"
        self._gate = Gate(last=_last(archive, self._snapshot), repeats=_repeats(state), links=links)
        self._elsewhere = Elsewhere(state)
        # Of a store nothing is counted, nor of an archive that did not count from its beginning.
        self._records = UNSET if not links else 0 if state is None else state.records
        self._before = state
        self._waited = pl.Series([found.account_id for found in state.parked] if state else [], dtype=pl.String())
        # The partitions of which something is read again, and from where; a store's accounts are read apart.
        again = {} if state is None else _by_partition(state.reread)
        self._again = {partition: at for partition, at in again.items() if state is not None and state.parked}
        self._again |= {partition: at for partition, at in again.items() if at < self._done.get(partition, 0)}
        self._pending: list[pl.DataFrame] = []

    @property
    def state(self) -> State | None:
        """What the archive holds, None where nothing was committed yet."""
        return None if self._snapshot is None else self._snapshot.state

    @property
    def version(self) -> int | None:
        """The version of the table."""
        return None if self._snapshot is None else self._snapshot.version

    @property
    def held(self) -> list[str]:
        """The accounts that are to be read again, until `passed` is called."""
        return self._waited.to_list() if self._again else []

    def start(self, partition: int | None = None) -> int:
        """Return where to read on: of a topic before what was read already, while an account waits there."""
        return self._again.get(partition, self._reached.get(partition, 0))

    def reached(self, partition: int | None = None) -> int:
        """Return up to where the source was read."""
        return self._reached.get(partition, 0)

    def passed(self, partition: int | None = None) -> None:
        """Take note that all that had to be read again was; until then what was known of it before still counts."""
        self._again.pop(partition, None)

    def of(self, partition: int) -> _Partition:
        """Return a target for the batches of one partition."""
        self._reached.setdefault(partition, 0)
        return _Partition(self, partition)

    def apply(self, batch: Batch, partition: int | None = None) -> None:
        """Take in one batch; commit where enough has come together."""
        events = batch.events.with_columns(partition=pl.lit(partition, pl.Int64()))
        done = self._done.get(partition, 0)
        if not isinstance(self._records, UnsetType):
            self._records += int((events["position"] >= done).sum())
        if self._reached.get(partition, 0) <= done:
            events = self._unknown(events, done)
        poison = [msgspec.structs.replace(found, partition=partition) for found in batch.poison]
        self._pending.append(self._admitted(events, poison).select(_COLUMNS))
        self._reached[partition] = max(batch.position, done)
        if sum(part.height for part in self._pending) >= self._append_events:
            # Whether a repeat has other content is only asked once all is read, so such accounts wait.
            self._commit(self.uncompared() | self._gate.parked(None, _no_copies), None, concluded=False)

    def uncompared(self, details: str = "") -> dict[str, Parked]:
        """Return the accounts of which an event came more than once: nobody knows yet whether both are the same."""
        first = self._gate.repeats.unique("account_id", keep="first", maintain_order=True)
        return {
            account_id: Parked(account_id=account_id, version=version, reason=UNCOMPARED, details=details)
            for account_id, version in first.iter_rows()
        }

    @property
    def last(self) -> pl.DataFrame:
        """The last version of every account that was let through, and the chain there (`LAST_SCHEMA`)."""
        return self._gate.last

    @property
    def is_readable(self) -> bool:
        """Whether there was nothing that could not be read."""
        return not self._gate.poison

    @property
    def has_let_go(self) -> bool:
        """Whether events were too many to be kept while they waited, so that only a run of its own has them again."""
        return bool(self._gate.let_go)

    def judged(self, ends: pl.DataFrame | None, copies: Copies) -> dict[str, Parked]:
        """Return the accounts that cannot be vouched for; `ends` and `copies` are those of a source."""
        return self._gate.parked(ends, copies)

    def conclude(self, found: dict[str, Parked], *, watermark: datetime | None, unread: Sequence[Unread] = ()) -> State:
        """Commit what is left with what was `judged` over all; `unread` are the partitions that have more."""
        state = self._commit(found, watermark, concluded=True, unread=unread)
        # What was compared and is the same is no question any more, should this go on.
        parked = [each.account_id for each in state.parked]
        self._gate.repeats = self._gate.repeats.filter(pl.col("account_id").is_in(parked))
        return state

    def _admitted(self, events: pl.DataFrame, poison: list[PoisonEvent]) -> pl.DataFrame:
        """Return the events that the gate lets through, and take note of where repeats were."""
        known, waiting = self._gate.repeats.height, self._gate.waiting
        admitted = self._gate.admit(events, poison)
        repeated = self._gate.repeats[known:]
        self.repeated += repeated.height
        if self._origin.source == "topic" and repeated.height:
            # Which of them stays is the gate's choice, so all places count.
            for some in (events, waiting):
                if some is not None:
                    self._elsewhere.add(some.join(repeated.unique(), on=["account_id", "version"], how="semi"))
        return admitted

    def _unknown(self, events: pl.DataFrame, done: int) -> pl.DataFrame:
        """Leave out what is in the archive already: all that was read before, but for the accounts that waited."""
        known = events.join(self._gate.last, on="account_id", how="left", maintain_order="left", suffix="_last")
        waited = events["account_id"].is_in(self._waited.implode())
        is_old = known["version"] <= known["version_last"].fill_null(0)
        is_held = waited & ~is_old
        if self._origin.source == "topic":
            # What waited here may be in the archive by another place of it, read since.
            self._elsewhere.add(known.filter(waited & is_old))
        # Of a topic a position is an offset, and `done` the next one to be read.
        is_new = events["position"] >= done if self._origin.source == "topic" else events["position"] > done
        return events.filter(is_new | is_held)

    def _commit(
        self,
        found: dict[str, Parked],
        watermark: datetime | None,
        *,
        concluded: bool,
        unread: Sequence[Unread] = (),
    ) -> State:
        events = self._events()
        # What is still to be read again is as it was.
        before = self._before if self._again else None
        parked = {each.account_id: each for each in before.parked} if before else {}
        parked |= {account_id: self._placed(each) for account_id, each in found.items()}
        poison = [each for each in before.poison if each.partition in self._again] if before else []
        held = pl.Series(list(parked), dtype=pl.String())
        self._settle_places(events)
        state = State(
            commits=0,
            source=self._origin.source,
            source_id=self._origin.source_id,
            ledger_id=self._origin.ledger_id,
            topic=self._origin.topic,
            position=_position(self._reached),
            reread=_position(self._reread()),
            events=0,
            accounts=pl.concat([self._gate.last["account_id"], held]).n_unique(),
            watermark=watermark,
            parked=sorted(parked.values(), key=lambda each: each.account_id),
            poison=[*self._gate.poison, *(each for each in poison if each not in self._gate.poison)],
            repeats=self._repeats(parked),
            records=self._records,
            waiting=self._waiting(),
            elsewhere=self._elsewhere.versions if self._origin.source == "topic" else UNSET,
            concluded=concluded,
            unread=list(unread),
        )
        if events.is_empty() and self.state is not None and _is_same(state, self.state):
            return self.state
        added = [self._added(events)] if events.height else []
        commits = 1 + (0 if self.state is None else self.state.commits)
        self._snapshot = self._archive.commit(self._snapshot, state, added=added)
        self.appended += events.height
        if self.state is None or self.state.commits != commits:
            # This commit counts, but others have events that this run's gate does not know.
            raise PositionMoved(
                "another process moved the archive on meanwhile",
                where=self._archive.location.url,
                next_step="run it again",
            )
        self._pending = []
        self._done = dict(self._reached)
        return self.state

    def _added(self, events: pl.DataFrame) -> Written:
        """Write events as a data file; IncompleteError where one that was whole is damaged since."""
        if self._snapshot is not None and self._archive.location.folder is not None:
            # A follower may have begun weeks ago. Of a folder it costs a look at each file; an object store, which
            # would be asked for each, keeps hashes of its own.
            need_whole(self._archive, self._snapshot.files, _NOTHING_ADDED)
        return self._archive.files.put(events)

    def _events(self) -> pl.DataFrame:
        """Return what was gathered as the rows of a file: in order, the chain at the last event of each account."""
        gathered = pl.concat([ARCHIVE_SCHEMA.to_frame().select(_COLUMNS), *self._pending])
        chains = self._gate.last.select("account_id", "version", "chain")
        rows = gathered.join(chains, on=["account_id", "version"], how="left")
        return rows.select(ARCHIVE_SCHEMA.names()).sort("account_id", "version")

    def _waiting(self) -> int | UnsetType:
        """Return how many events of a topic wait, unset where not all of them are known here."""
        if self._origin.source == "store" or self._again or self._gate.let_go:
            return UNSET
        return 0 if self._gate.waiting is None else self._gate.waiting.height

    def _settle_places(self, new: pl.DataFrame) -> None:
        """Hold the places of what came more than once against those that the archive has, or is going to have."""
        ids = self._elsewhere.unsettled
        if not ids:
            return
        files = [] if self._snapshot is None else files_of(self._snapshot.files, ids)
        with reading(self._archive):
            kept = scan(self._archive, files).filter(pl.col("account_id").is_in(ids)).select(PLACES.names()).collect()
        waiting = [] if self._gate.waiting is None else [self._gate.waiting]
        self._elsewhere.settle(pl.concat([some.select(PLACES.names()) for some in (kept, new, *waiting)]))

    def _repeats(self, parked: Collection[str]) -> dict[str, list[int]]:
        """Return the versions that came more than once for accounts that are parked, for whatever reason."""
        kept = self._gate.repeats.filter(pl.col("account_id").is_in(list(parked))).unique().sort(pl.all())
        versions = kept.group_by("account_id", maintain_order=True).agg("version")
        return dict(versions.iter_rows())

    def _placed(self, found: Parked) -> Parked:
        """Return a parked account of a store with the position of its first event that was not let through."""
        if self._origin.source == "topic" or found.position is None:
            return found
        positions = [each.position for each in self._gate.poison if each.account_id == found.account_id]
        if self._gate.waiting is not None:
            positions += self._gate.waiting.filter(account_id=found.account_id)["position"].to_list()
        # Where events were let go their places are not known any more.
        position = None if found.account_id in self._gate.let_go else min(positions, default=None)
        return msgspec.structs.replace(found, position=position)

    def _reread(self) -> dict[int | None, int]:
        """Return the positions before everything that the gate holds back or cannot read."""
        first: dict[int | None, int] = self._reached | self._again
        if self._origin.source == "store":
            return first
        # The places of events that were too many to be kept are not known any more.
        if self._gate.let_go:
            return dict.fromkeys(first, 0)
        held: list[tuple[int | None, int]] = [(found.partition, found.position) for found in self._gate.poison]
        if self._gate.waiting is not None:
            held += self._gate.waiting.select("partition", "position").iter_rows()
        for partition, position in held:
            first[partition] = min(first[partition], position)
        return first


class _Partition:
    """The target of one partition's batches."""

    details: tuple[str, ...] = DETAIL_COLUMNS

    def __init__(self, whole: Appending, partition: int) -> None:
        self._whole = whole
        self._partition = partition

    def apply(self, batch: Batch) -> None:
        """Take in one batch."""
        self._whole.apply(batch, self._partition)


def _same(origin: Origin, state: State) -> None:
    if (state.source, state.source_id) != (origin.source, origin.source_id):
        was = f"topic {state.topic!r} ({state.source_id})" if state.source == "topic" else f"ledger {state.source_id}"
        raise RefusedError(
            f"the archive is of another source: of {was}",
            next_step="archive from that source, or name another place with --archive",
        )


def _last(archive: Archive, snapshot: Snapshot | None) -> pl.DataFrame:
    """Return the gate's memory: the last version of every account that is in the archive."""
    if snapshot is None or not snapshot.files:
        return LAST_SCHEMA.to_frame()
    need_whole(archive, snapshot.files, _NOTHING_ADDED)
    events = scan(archive, snapshot.files)
    with reading(archive):
        return events.group_by("account_id").agg(pl.col("version").max(), pl.col("chain").max_by("version")).collect()


def _repeats(state: State | None) -> pl.DataFrame:
    """Return the repeats that have to be judged once more, since their accounts are not whole."""
    known = {} if state is None else state.repeats
    found = [(account_id, version) for account_id, versions in known.items() for version in versions]
    return pl.DataFrame(found, schema={"account_id": pl.String(), "version": pl.Int64()}, orient="row")


def _by_partition(position: Position | None) -> dict[int | None, int]:
    if position is None:
        return {}
    if isinstance(position, int):
        return {None: position}
    return {partition: offset for partition, offset in position.items()}  # noqa: C416 - the key's type is wider here.


def _position(reached: dict[int | None, int]) -> Position:
    if not reached or None in reached:
        return reached.get(None, 0)
    return {partition: offset for partition, offset in reached.items() if partition is not None}


def _is_same(state: State, before: State) -> bool:
    """Say whether nothing changed but the numbers that a commit makes."""
    made = {"commits": before.commits, "events": before.events, "manifest": before.manifest}
    return msgspec.structs.replace(state, **made) == before


def _no_copies(keys: pl.DataFrame) -> pl.DataFrame:  # noqa: ARG001 - it answers like a source, without looking.
    return pl.DataFrame(schema={"account_id": pl.String(), "version": pl.Int64(), "state": pl.Binary()}).clear()

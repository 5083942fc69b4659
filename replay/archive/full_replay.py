"""Full replay of an archive: one lazy scan, folded by the streaming engine with the very same projections.

There is no gate here, since it stood in front of the archive: every event is there once. What it held back then is in
the archive's state, and is named again. Data files are hashed before they are read; the accounts that a damaged one
may have events of are withheld.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import polars as pl

from projections import BALANCES, Projection
from replay.archive.copies import doubtful
from replay.archive.counting import IS_EACH_ONCE, counted, need_all_each_once, need_each_once
from replay.archive.files import DataFile
from replay.archive.reading import files_of, reading, scan, slices, uncoded
from replay.archive.state import State
from replay.archive.table import Archive, Snapshot
from replay.certificate import Damaged, Position, Unread
from replay.full_replay import CORE, Replay, concluded
from replay.gate import Gate, Parked
from replay.moment import Moment
from replay.states import Refold, States
from schemas import PoisonEvent
from schemas.errors import IncompleteError, UsageError

__all__ = ["damage", "replayed_archive", "snapshot_of"]

#: Events folded at once where a state has a row a transaction.
SLICE_EVENTS = 1_000_000

#: So many accounts and events are read into memory at once: a scan takes longer to begin than to read a few of them.
IN_MEMORY_ACCOUNTS_MAX = 100
IN_MEMORY_EVENTS_MAX = 100_000

#: The columns that the states of accounts are made of, and what is asked of events beside that.
_NEEDED = (
    *("account_id", "version", "partition", "position", "chain"),
    *("event", "effective_at", "recorded_at", "type", "amount", "from_status", "to_status"),
)

#: Reasons for which an account is parked at a place in the source: before that place it is whole.
_AT_A_PLACE = ("version_gap", "poison_event")


@contextmanager
def replayed_archive(
    archive: Archive,
    projections: Sequence[Projection] = (),
    *,
    at: Position | None = None,
    moment: Moment | None = None,
    account_ids: Sequence[str] = (),
    links: bool = False,
    snapshot: Snapshot | None = None,
) -> Iterator[Replay]:
    """Replay an archive up to a position of its source (default: all of it) and yield the result.

    With `moment` only the events of that moment are folded; with `account_ids` only those of some accounts are read;
    with `links` the gate has the chain of every account whose last event in the source is among what is replayed.
    `snapshot` is what `snapshot_of` gave, where the caller has it.

    UsageError where there is no archive, or `at` is past what it holds; IncompleteError where its log is damaged.
    """
    snapshot = snapshot or snapshot_of(archive)
    asked = _Asked(snapshot.held, at, moment, account_ids)
    _check(at, snapshot.held)
    files = files_of(snapshot.files, account_ids) if account_ids else snapshot.files
    bad = archive.files.check(files)
    good = [file for file in files if file.name not in bad]
    asked = asked._replace(damaged=[damage(file, bad[file.name]) for file in files if file.name in bad])
    with reading(archive):
        replay = _folded(archive, snapshot, asked, good, projections, links=links)
    yield replay


def _folded(
    archive: Archive,
    snapshot: Snapshot,
    asked: _Asked,
    files: Sequence[DataFile],
    projections: Sequence[Projection],
    *,
    links: bool,
) -> Replay:
    read = _read(archive, asked, files, projections)
    asked = asked._replace(torn=_torn(asked, asked.of(read)))
    states = States([*CORE, *projections], refold=_refold(archive, asked, files))
    coded = asked.of_moment(asked.of(read))
    states.fold(uncoded(coded), coded=coded)
    if asked.moment is not None and asked.is_all and not asked.damaged:
        # Of a moment only some events are folded.
        need_all_each_once(archive, snapshot)
    last, count = _last(asked, states, asked.of(read), links=links)
    if asked.is_all and not asked.damaged and count != asked.state.events:
        # Versions run from 1 and are there once, so the last ones add up to the events.
        raise IncompleteError(
            f"the archive has {asked.state.events:,} events, and the last versions of its accounts add up to {count:,}",
            where=f"table version {snapshot.version}",
            next_step="see `archive --check`",
        )
    unread, withheld = _unread(asked, read)
    return _concluded(
        asked,
        states,
        last,
        parked=_parked(asked, read) | _doubtful(asked, read),
        unread=unread,
        withheld=withheld,
        events=count,
        table=snapshot,
    )


def _read(
    archive: Archive, asked: _Asked, files: Sequence[DataFile], projections: Sequence[Projection]
) -> pl.LazyFrame:
    """Return the events of some files, coded; those of few accounts are read once, into memory, if they are few too."""
    events = scan(archive, files, is_coded=True)
    if not 0 < len(asked.account_ids) <= IN_MEMORY_ACCOUNTS_MAX:
        return events
    needed = dict.fromkeys([*_NEEDED, *(name for projection in projections for name in projection.details)])
    found = asked.of_accounts(events).select(list(needed)).head(IN_MEMORY_EVENTS_MAX + 1).collect()
    return found.lazy() if found.height <= IN_MEMORY_EVENTS_MAX else events


def _refold(archive: Archive, asked: _Asked, files: Sequence[DataFile]) -> Refold:
    def refold(projection: Projection, where: pl.Expr | None) -> Iterator[pl.DataFrame]:
        # A state with a row a transaction would not fit into memory if all accounts were folded at once.
        for events in slices(archive, files, SLICE_EVENTS, is_coded=projection.takes_codes):
            some = asked.of_moment(asked.of(events))
            state = projection.fold(some if where is None else some.filter(where))
            with reading(archive):
                part = state.cast(projection.schema).collect()
            yield part

    return refold


def snapshot_of(archive: Archive) -> Snapshot:
    """Return an archive as it is now.

    UsageError where there is none; IncompleteError where the last run that appended to it did not come to its end.
    """
    snapshot = archive.snapshot()
    if snapshot is None or snapshot.state is None:
        raise UsageError(
            "there is no archive", where=archive.location.url, next_step="make it with `ledger-replay archive`"
        )
    if not snapshot.state.concluded:
        raise IncompleteError(
            "the last run of `archive` did not come to its end, so no account was held against where it should end",
            where=archive.location.url,
            next_step="run `ledger-replay archive` again: it goes on where that run was",
        )
    return snapshot


class _Asked(NamedTuple):
    """What is asked of an archive that holds `state`."""

    state: State
    at: Position | None
    moment: Moment | None
    account_ids: Sequence[str]
    damaged: Sequence[Damaged] = ()
    torn: pl.DataFrame | None = None

    @property
    def holes(self) -> pl.DataFrame:
        """The accounts that have a hole at the position that was asked, none where no position was."""
        empty = pl.DataFrame(schema={"account_id": pl.String(), "version": pl.Int64()})
        return empty if self.torn is None else self.torn

    @property
    def is_all(self) -> bool:
        """Whether every event of the archive is let through."""
        return self.at is None and not self.account_ids

    def of(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Return the events that are let through."""
        events = self.of_accounts(events)
        if self.at is not None:
            events = events.filter(_until(self.at))
        if self.damaged:
            # What a file that is whole has of these accounts may be their middle.
            events = events.filter(~_within(self.damaged))
        return events if self.torn is None or self.torn.is_empty() else _before_hole(events, self.torn)

    def of_accounts(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Return the events of the accounts that are asked about."""
        return events.filter(pl.col("account_id").is_in(list(self.account_ids))) if self.account_ids else events

    def of_moment(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Return the events that count."""
        return events if self.moment is None else self.moment.of(events)


def _last(asked: _Asked, states: States, events: pl.LazyFrame, *, links: bool) -> tuple[pl.DataFrame, int]:
    """Return the last version of each account (`LAST_SCHEMA`) and the number of events that were let through."""
    last = states.value(BALANCES).select("account_id", "version")
    count = int(last["version"].sum())
    if asked.moment is not None and asked.is_all and not asked.damaged:
        count = asked.state.events
    elif asked.moment is not None or asked.account_ids:
        # An account that has events, and none of that moment, is known all the same.
        found = counted(events).collect()
        need_each_once(found.join(asked.holes, on="account_id", how="anti"), "the archive")
        last, count = found.select("account_id", "version"), int(found["events"].sum())
    if not links:
        return last.with_columns(chain=pl.lit(None, pl.Binary())), count
    chains = events.filter(pl.col("chain").is_not_null()).select("account_id", "version", "chain").collect()
    return last.join(chains, on=["account_id", "version"], how="left"), count


def _torn(asked: _Asked, events: pl.LazyFrame) -> pl.DataFrame:
    """Return the accounts of which a later event stood before an earlier one, at the position that was asked.

    `version` is the last before the hole. In the whole archive there is no hole, since the gate stood in front of it;
    but an event that was lost and brought back stands at the end of its source, behind those that follow it.
    """
    if asked.at is None:
        return asked.holes
    wrong = counted(events).filter(~IS_EACH_ONCE).collect()
    # Fewer events than versions is a hole; more is nothing that can be.
    need_each_once(wrong.filter(pl.col("events") >= pl.col("version")), "the archive")
    ids = wrong["account_id"].to_list()
    some = events.filter(pl.col("account_id").is_in(ids)).select("account_id", "version").collect()
    is_whole = pl.col("version") == pl.int_range(1, pl.len() + 1).over("account_id")
    some = some.sort("account_id", "version").select("account_id", is_whole=is_whole)
    return some.group_by("account_id").agg(version=pl.col("is_whole").sum().cast(pl.Int64))


def _before_hole(events: pl.LazyFrame, torn: pl.DataFrame) -> pl.LazyFrame:
    """Return events without those behind a hole, which a gate would have held back."""
    last = torn.lazy().select("account_id", hole=pl.col("version") + 1)
    known = events.join(last, on="account_id", how="left")
    return known.filter(pl.col("hole").is_null() | (pl.col("version") < pl.col("hole"))).drop("hole")


def _parked(asked: _Asked, events: pl.LazyFrame) -> dict[str, Parked]:
    """Return the accounts that nothing is certified for: all that are parked now, unless they were whole then."""
    found = {
        each.account_id: each
        for each in asked.state.parked
        if not asked.account_ids or each.account_id in asked.account_ids
    }
    if asked.at is None or asked.torn is None:
        return found
    of_parked = events.filter(pl.col("account_id").is_in(list(found)))
    ends = of_parked.group_by("account_id").agg(pl.col("version", "position").max()).collect()
    reached = {account_id: (version, position) for account_id, version, position in ends.iter_rows()}
    found = {
        account_id: each
        for account_id, each in found.items()
        if not _was_whole(each, asked.at, *reached.get(account_id, (0, 0)))
    }
    for account_id, version in asked.torn.iter_rows():
        details = "at that position later events were there before it"
        gap = Parked(account_id=account_id, version=version + 1, reason="version_gap", details=details)
        found.setdefault(account_id, gap)
    return found


def _doubtful(asked: _Asked, events: pl.LazyFrame) -> dict[str, Parked]:
    """Return the accounts that the archive cannot tell all of at offsets of a topic."""
    if not isinstance(asked.at, dict) or not any(asked.at.values()):
        return {}
    return {each.account_id: each for each in doubtful(asked.state, asked.of(events), asked.of_accounts(events))}


def _unread(asked: _Asked, events: pl.LazyFrame) -> tuple[list[Unread], list[str]]:
    """Return the partitions that have more than is known, and the accounts in them, who may go on there.

    Each partition says how many accounts those are. Up to a position that was asked everything is known.
    """
    partitions = asked.state.unread if asked.at is None else []
    if not partitions:
        return [], []
    names = [each.partition for each in partitions]
    of_them = events.filter(pl.col("partition").is_in(names)).select("partition", "account_id").unique().collect()
    counts: dict[int, int] = dict(of_them.group_by("partition").len().iter_rows())
    counted = [msgspec.structs.replace(each, accounts=counts.get(each.partition, 0)) for each in partitions]
    return counted, of_them["account_id"].unique().to_list()


def _was_whole(found: Parked, at: Position, last_version: int, last_position: int) -> bool:
    """Say whether a parked account, of which the archive has events up to a version, was whole at a position.

    Where the events are that are lost is not known, only that they came after the last one that is there. Positions of
    different partitions have no order, so of a topic it is parked at all of them.
    """
    if not isinstance(at, int):
        return False
    goes_on = at < last_position
    if found.reason == "head_mismatch":
        return goes_on
    if found.reason not in _AT_A_PLACE or found.position is None or at >= found.position:
        return False
    return goes_on or (found.reason == "poison_event" and found.version == last_version + 1)


def _concluded(
    asked: _Asked,
    states: States,
    last: pl.DataFrame,
    *,
    parked: dict[str, Parked],
    unread: list[Unread],
    withheld: list[str],
    events: int,
    table: Snapshot,
) -> Replay:
    state = asked.state
    poison = [found for found in state.poison if _is_seen(found, asked)]
    replay = concluded(
        states,
        Gate(last=last, poison=poison),
        parked,
        accounts=state.accounts if asked.is_all else None,
        moment=asked.moment,
        source="archive",
        ledger_id=state.ledger_id,
        position=state.position if asked.at is None else asked.at,
        events=events,
        topic=state.topic,
        topic_id=state.source_id if state.source == "topic" else None,
        table_id=table.table_id,
        table_version=table.version,
        damaged=list(asked.damaged),
        unread=unread,
        withheld=withheld,
    )
    # Of some accounts, or up to some offsets, nobody counted what a topic had more than once.
    repeats = state.dropped if asked.is_all or state.source == "store" else None
    replay.certificate = msgspec.structs.replace(replay.certificate, repeats=repeats)
    return replay


def _is_seen(found: PoisonEvent, asked: _Asked) -> bool:
    """Say whether what cannot be read is among what is asked; what is nobody's may be anybody's."""
    if asked.account_ids and found.account_id is not None and found.account_id not in asked.account_ids:
        return False
    at, position = asked.at, found.position
    return at is None or (position <= at if isinstance(at, int) else position < at.get(found.partition or 0, 0))


def _within(damaged: Sequence[Damaged]) -> pl.Expr:
    account_id = pl.col("account_id")
    ranges = (account_id.is_between(pl.lit(each.first_account), pl.lit(each.last_account)) for each in damaged)
    return pl.any_horizontal(pl.lit(value=False), *ranges)


def damage(file: DataFile, reason: str) -> Damaged:
    """Return what a certificate says of a data file that is not what was written."""
    return Damaged(
        file=file.name,
        reason=reason,
        events=file.events,
        first_account=file.first_account,
        last_account=file.last_account,
    )


def _check(at: Position | None, state: State) -> None:
    """UsageError unless the archive holds everything up to a position."""
    if at is None:
        return
    is_there = isinstance(at, int) and isinstance(state.position, int) and 0 <= at <= state.position
    if isinstance(at, dict) and isinstance(state.position, dict):
        ends = state.position
        is_there = set(at) == set(ends) and all(0 <= at[partition] <= end for partition, end in ends.items())
    if not is_there:
        raise UsageError(
            f"position {_text(at)} is not in the archive",
            next_step=f"it holds its {state.source} up to {_text(state.position)}",
        )


def _text(position: Position) -> str:
    """Return a position as the options take it."""
    if isinstance(position, int):
        return str(position)
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(position.items()))


def _until(at: Position) -> pl.Expr:
    if isinstance(at, int):
        return pl.col("position") <= at
    # Of a topic it is the next offset.
    ends = ((pl.col("partition") == partition) & (pl.col("position") < end) for partition, end in at.items())
    return pl.any_horizontal(pl.lit(value=False), *ends)

"""The parts beside the store: the topic, the archive and the live rows, each held against the store where it can be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import msgspec

from ledger import read_model
from ledger.store import Store
from replay.archive.checking import Checked, check
from replay.archive.rebuild import refuse_other_ledger
from replay.archive.table import Archive
from replay.certificate import COMPLETE, Certificate
from replay.comparison.foreign import ForeignTable
from replay.comparison.live_table import LiveTable
from replay.comparison.once import drift_once
from replay.drift import EQUAL, Drift, drift
from replay.recovery.loss import points_wrong, wrong_accounts
from replay.recovery.parts import Part, PartState, counted, few
from replay.recovery.store_parts import Seen

__all__ = ["archive_check", "archive_part", "foreign_live", "foreign_open", "live_part", "own_live", "topic_part"]


def topic_part(found: Certificate, seen: Seen | None) -> Part:
    """Say whether a replay of the topic was whole, and how far it is behind the store, or before it."""
    behind = None if seen is None else max(seen.certificate.events - found.events, 0)
    beyond = 0 if seen is None else found.beyond_store
    details = {
        "topic": found.topic,
        "events": found.events,
        "accounts": found.accounts,
        "unread": [msgspec.to_builtins(each) for each in found.unread],
        "parked": len(found.parked),
        "poison": len(found.poison),
        "behind_store": behind,
        "beyond_store": beyond,
    }
    if found.events == 0 and found.verdict == COMPLETE:
        words = f"the topic {found.topic!r} holds no event"
        return Part(name="topic", state="none", words=words, next_step="`publish` fills it", details=details)
    beside = [
        *([f"it is {counted(behind, 'event', 'events')} behind the store"] if behind else []),
        *([f"{counted(beyond, 'account has', 'accounts have')} more events on it than in the store"] if beyond else []),
    ]
    if found.verdict == COMPLETE:
        words = "; ".join([f"all {found.events:,} events of {found.accounts:,} accounts can be replayed", *beside])
        return Part(name="topic", state="ok", words=words, next_step="`publish`" if behind else "", details=details)
    lacks = [
        *(f"partition {each.partition} is unread from offset {each.offset:,}: {each.details}" for each in found.unread),
        *([f"{counted(len(found.parked), 'account is', 'accounts are')} parked in it"] if found.parked else []),
        *([f"{counted(len(found.poison), 'event', 'events')} of it cannot be read"] if found.poison else []),
    ]
    return Part(
        name="topic",
        state="degraded" if found.events else "lost",
        words="; ".join([*lacks, *beside]),
        next_step="have it repaired from a replica, or publish to a new topic once the store is whole",
        details=details,
    )


def archive_part(found: Checked, seen: Seen | None) -> Part:
    """Say whether every file of the archive is what was written, and how far it is behind the store, or before it."""
    behind, beyond = _beside_store(found, seen)
    details = {
        "files": found.files,
        "events": found.events,
        "damaged": [msgspec.to_builtins(each) for each in found.damaged],
        "miscounted": len(found.miscounted),
        "parked": len(found.state.parked),
        "source": found.state.source,
        "behind_store": behind,
        "beyond_store": beyond,
    }
    if found.state.events == 0:
        return Part(name="archive", state="none", words="the archive holds no event", details=details)
    beside = [
        *([f"it is {counted(behind, 'position', 'positions')} behind the store"] if behind else []),
        *([f"it goes to {counted(beyond, 'position', 'positions')} after the store's head"] if beyond else []),
    ]
    if found.verdict == COMPLETE:
        words = "; ".join([f"all {found.files:,} files with {found.events:,} events are what was written", *beside])
        return Part(name="archive", state="ok", words=words, next_step="`archive`" if behind else "", details=details)
    return Part(
        name="archive",
        state="degraded" if len(found.damaged) < found.files else "lost",
        words="; ".join([*_archive_lacks(found), *beside]),
        next_step="see `archive --check`",
        details=details,
    )


def _beside_store(found: Checked, seen: Seen | None) -> tuple[int | None, int]:
    """Return how many positions an archive of the store is behind it, None where that is not known, and beyond it."""
    position = found.state.position
    if seen is None or found.state.source != "store" or not isinstance(position, int):
        return None, 0
    return max(seen.position - position, 0), max(position - seen.position, 0)


def _archive_lacks(found: Checked) -> list[str]:
    state, damaged, miscounted = found.state, found.damaged, found.miscounted
    named = few([each.file for each in damaged]), few([each.account_id for each in miscounted])
    lacks = [
        *([f"{len(damaged):,} of {found.files:,} files are damaged: {named[0]}"] if damaged else []),
        *([f"{counted(len(miscounted), 'account lacks', 'accounts lack')} versions: {named[1]}"] if miscounted else []),
        *([f"{counted(len(state.parked), 'account is', 'accounts are')} parked in it"] if state.parked else []),
        *([f"{counted(len(state.poison), 'event', 'events')} of its source could not be read"] if state.poison else []),
        *(
            [f"{counted(len(state.unread), 'partition', 'partitions')} of its source not read to the end"]
            if state.unread
            else []
        ),
        *([] if state.concluded else ["its last run did not come to its end"]),
    ]
    return lacks or [f"it has {found.events:,} events, and {state.events:,} were written"]


def live_part(found: Drift) -> Part:
    """Say how many live rows are not what the log says."""
    drifted = wrong_accounts(found)
    details = {
        "live": found.live,
        "compared": found.compared,
        "drifted": drifted,
        "uncompared": len(found.uncompared),
        "points_wrong": points_wrong(found),
    }
    if found.verdict == EQUAL:
        words = f"all {found.compared:,} live rows are what the log says"
        return Part(name="live", state="ok", words=words, details=details)
    lacks = [
        *([f"{drifted:,} of {found.compared:,} accounts are not what the log says"] if drifted else []),
        *([f"{counted(len(found.uncompared), 'account', 'accounts')} cannot be compared"] if found.uncompared else []),
    ]
    # Of our own read model it is said of the whole; why an account cannot be compared is in the certificate then.
    whole = found.why_not if found.live == "read_model" else ""
    why = _why_uncompared(replace(found, why_not="") if whole else found)
    if why or not whole:
        lacks = ["; ".join(lacks or ["some rows cannot be read"]) + (f", the first since: {why}" if why else "")]
    words = "; ".join([*lacks, *([whole] if whole else [])])
    # Rows of which not one could be read may be as they should be: nobody knows.
    state: PartState = "degraded" if drifted or found.compared else "unknown"
    next_steps = ["`recover plan` corrects them"] if drifted else []
    next_steps += [_UNCOMPARED[found.live]] if why or not drifted else []
    return Part(name="live", state=state, words=words, next_step="; ".join(next_steps), details=details)


#: What to do about accounts that cannot be compared, by which live rows they are of.
_UNCOMPARED = {
    "foreign": "where rows cannot be read, see columns, statuses and amount_scale of [live], then check again",
    "imported": "`drift` names those that cannot be compared",
    "read_model": "`drift --own` names those that cannot be compared",
}


def _why_uncompared(found: Drift) -> str:
    """Return the first reason why accounts cannot be compared, empty where all can."""
    if found.why_not or not found.uncompared:
        return found.why_not
    parked = found.certificate.parked
    return f"{parked[0].account_id} has {parked[0].reason} at version {parked[0].version}" if parked else ""


def archive_check(archive: Archive) -> Callable[[Store | None], Checked | None]:
    """Return what checks an archive; it gives None where there is none, and refuses one of another ledger."""

    def ask(store: Store | None) -> Checked | None:
        snapshot = archive.snapshot()
        if snapshot is None or snapshot.state is None:
            return None
        if store is not None:
            refuse_other_ledger(store, archive, snapshot.state)
        return check(archive)

    return ask


def own_live(store: Store) -> Drift | None:
    """Compare the imported rows, else our own read model, with the log; None where there are neither."""
    with store.snapshot() as connection:
        is_there = read_model.imported(connection).height > 0 or read_model.live(connection) is not None
    return drift(store) if is_there else None


def foreign_live(live: LiveTable) -> Callable[[Store], Drift | None]:
    """Return what compares a table of another database with the log."""

    def ask(store: Store) -> Drift:
        reasons: list[str] = []
        found = drift_once(store, live, rejects=lambda rows: reasons.extend(rows["reason"].head(1)))
        return replace(found, why_not=reasons[0]) if reasons else found

    return ask


def foreign_open(live: LiveTable) -> Callable[[], None]:
    """Return what opens a table of another database and does nothing with it."""

    def reach() -> None:
        with closing(ForeignTable(live)) as table:
            table.open().close()

    return reach

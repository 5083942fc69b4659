"""Rebuild from an archive: the same generation as from the store, in a fraction of the time."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from ledger import topics
from ledger.store import Store
from projections import Projection
from replay.archive.full_replay import replayed_archive, snapshot_of
from replay.archive.state import State
from replay.archive.table import Archive
from replay.certificate import COMPLETE, Position
from replay.full_replay import Replay
from replay.generation import beyond_heads
from replay.rebuild import Rebuild, promote_generation, write_generation
from schemas import format_time
from schemas.errors import RefusedError

__all__ = ["rebuild_from_archive", "refuse_other_ledger"]


def rebuild_from_archive(
    store: Store,
    archive: Archive,
    projections: Sequence[Projection] = (),
    *,
    until: Position | None = None,
    promote: bool = False,
    now: datetime | None = None,
) -> Rebuild:
    """Replay an archive into a new generation of the store's read model; with `promote`, make it live afterwards.

    `until` is a position of the archive's source. Promote brings every account to the store's head and needs the same
    chain there: RefusedError where the archive has events that the store has lost, or others. RefusedError too, before
    anything is read or written, for the archive of another ledger, and with `promote` for an archive that is ahead of
    the store, and for an `until` before the archive's own end. Otherwise as `replay.rebuild`.
    """
    created_at = format_time(now or datetime.now(UTC))
    snapshot = snapshot_of(archive)
    refuse_other_ledger(store, archive, snapshot.held)
    if promote:
        _refuse_promotion(store, archive, snapshot.held, until)
    with replayed_archive(archive, projections, at=until, links=True, snapshot=snapshot) as replay:
        held = _held_against(store, replay)
        generation = write_generation(store, held, created_at)
        # The certificate names them, so they are folded, although nothing of them is kept.
        for projection in projections:
            deque(replay.states.buckets(projection), maxlen=0)
    promoted = promote and held.verdict == COMPLETE
    if promoted:
        promote_generation(store, generation)
    return Rebuild(held.verdict, held.certificate, generation, promoted)


def refuse_other_ledger(store: Store, archive: Archive, state: State) -> None:
    """RefusedError where an archive is of another ledger than a store, or of another topic than it knows.

    A ledger without events has nothing that the archive's could be taken for.
    """
    with store.snapshot() as connection:
        is_empty = store.head(connection) == 0 and store.heads(connection).is_empty()
        known = None if state.topic is None else topics.known(connection, state.topic)
    if state.source == "topic":
        is_other = known is not None and known.topic_id != state.source_id
        what = f"of another topic {state.topic!r} than the store knows"
    else:
        is_other = not is_empty and state.ledger_id != store.ledger_id
        what = f"of another ledger, {state.ledger_id}"
    if is_other:
        raise RefusedError(
            f"the archive is {what}",
            where=archive.location.url,
            next_step="name this ledger's archive with --archive, or make one with `archive`; by itself any archive "
            "answers, with a --data folder that has no ledger",
        )


def _refuse_promotion(store: Store, archive: Archive, state: State, until: Position | None) -> None:
    """RefusedError where no generation of this archive, up to there, could go live, whatever its data files hold."""
    if until is not None and _is_before(until, state.position):
        raise RefusedError(
            "a rebuild until a position before the archive's end cannot go live: at its own end only it knows the "
            "chains, which prove that it is made of the store's events",
            where=archive.location.url,
            next_step="rebuild without --until, or without --promote, or from the store",
        )
    at = state.position
    with store.snapshot() as connection:
        head = store.head(connection)
    # A position that the archive does not have is bad usage, which the replay says.
    if until in (None, at) and isinstance(at, int) and at > head:
        raise RefusedError(
            f"the archive cannot go live: it is at position {at:,}, and the store's head is {head:,}: the store has "
            "lost events, or was put back from a backup",
            where=archive.location.url,
            next_step="bring the events back first (`import events`, or a newer backup), then rebuild again",
        )


def _is_before(until: Position, end: Position) -> bool:
    """Say whether a position is an earlier one of those that the archive has; any other is bad usage."""
    if isinstance(until, int) or isinstance(end, int):
        return isinstance(until, int) and isinstance(end, int) and 0 <= until < end
    return until != end and until.keys() == end.keys() and all(0 <= at <= end[each] for each, at in until.items())


def _held_against(store: Store, replay: Replay) -> Replay:
    """Return the replay with the number of accounts that have more events than the store, if that has any."""
    with store.snapshot() as connection:
        heads = store.heads(connection)
    beyond = 0 if heads.is_empty() else beyond_heads(replay.gate.last, heads)
    return dataclasses.replace(replay, certificate=msgspec.structs.replace(replay.certificate, beyond_store=beyond))

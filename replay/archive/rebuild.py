"""Rebuild from an archive: the same generation as from the store, in a fraction of the time."""

from __future__ import annotations

import dataclasses
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
    anything is read, for the archive of another ledger. Otherwise as `replay.rebuild`.
    """
    created_at = format_time(now or datetime.now(UTC))
    snapshot = snapshot_of(archive)
    refuse_other_ledger(store, archive, snapshot.held)
    with replayed_archive(archive, projections, at=until, links=True, snapshot=snapshot) as replay:
        held = _held_against(store, replay)
        generation = write_generation(store, held, created_at)
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


def _held_against(store: Store, replay: Replay) -> Replay:
    """Return the replay with the number of accounts that have more events than the store, if that has any."""
    with store.snapshot() as connection:
        heads = store.heads(connection)
    beyond = 0 if heads.is_empty() else beyond_heads(replay.gate.last, heads)
    return dataclasses.replace(replay, certificate=msgspec.structs.replace(replay.certificate, beyond_store=beyond))

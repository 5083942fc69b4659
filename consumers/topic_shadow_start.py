"""What a shadow of a topic begins with, and when it can go on with the topic at all.

A shadow that follows a topic starts from zero, or from a generation that was rebuilt from this very topic and is still
what its certificate says. It goes on only with the topic that it began with, as far as nothing of that is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
import polars as pl

from consumers import topic_following
from consumers.shadow_start import Start
from ledger import read_model, shadows
from ledger.shadows import Shadow
from ledger.store import Store
from replay.certificate import COMPLETE, KeptCertificate
from replay.digest import stored_digest
from replay.full_replay import CORE
from replay.topic.metadata import Topic
from schemas.errors import RefusedError, UsageError

__all__ = ["begin_topic", "refuse_lost", "refuse_other_topic"]

_RESTART = "restart the shadow: its rows are then made anew from the topic as it is"
_FROM = "rebuild from this topic and start from that generation, or start from zero"


class _Begun(NamedTuple):
    said: str
    positions: dict[int, int]
    rows: pl.DataFrame


def begin_topic(store: Store, topic: Topic, name: str, start: Start, *, restart: bool, created_at: str) -> Shadow:
    """Return the shadow of a name that follows a topic, made as `start` says where there is none, or at a `restart`.

    RefusedError where there is one of that name that follows something else, where what it should start from is not
    proved, or where the topic has lost what comes after that; UsageError if there is no such generation.
    """
    with store.snapshot() as connection:
        found = shadows.find(connection, name)
    if found is not None and not restart:
        return refuse_other_topic(found, topic.name, topic.topic_id)
    begun = _begun(store, topic, start)
    refuse_lost(topic, name, begun.positions)
    with store.writing() as connection:
        read_model.lock_creation(connection)
        found = shadows.find(connection, name)
        if found is not None and not restart:
            # Another instance was faster.
            return refuse_other_topic(found, topic.name, topic.topic_id)
        shadow = shadows.create(
            connection,
            name=name,
            source="topic",
            source_id=topic.topic_id,
            topic=topic.name,
            started_from=begun.said,
            positions=begun.positions,
            created_at=created_at,
            instead_of=found,
        )
        read_model.write_rows(connection, shadow.number, begun.rows)
    return shadow


def refuse_other_topic(found: Shadow, name: str, topic_id: str) -> Shadow:
    """Return a shadow that follows this topic; RefusedError where it follows anything else."""
    if (found.source, found.topic) != ("topic", name):
        other = "the store" if found.source == "store" else f"the topic {found.topic!r}"
        raise RefusedError(
            f"the shadow {found.name!r} follows {other}, not the topic {name!r}",
            next_step="give this one another name, or restart it: its rows are then made anew",
        )
    if found.source_id != topic_id:
        raise RefusedError(
            f"topic {name!r} was made again: its id is {topic_id}, the shadow {found.name!r} follows {found.source_id}",
            next_step=_RESTART,
        )
    return found


def refuse_lost(topic: Topic, name: str, positions: Mapping[int, int]) -> None:
    """RefusedError where a topic has not all that comes after the positions of the shadow of a name."""
    instead = "follow the store, or publish to a topic that keeps all"
    topic_following.refuse_lost(topic, positions, f"the shadow {name!r} is at", restart=_RESTART, instead=instead)


def _begun(store: Store, topic: Topic, start: Start) -> _Begun:
    if start.checkpoints is not None:
        raise RefusedError(
            "a shadow of a topic cannot start from the checkpoints of an interrupted rebuild", next_step=_FROM
        )
    if start.generation is None:
        return _Begun("zero", dict.fromkeys(sorted(topic.partitions), 0), read_model.ROW_SCHEMA.to_frame())
    with store.snapshot() as connection:
        by_number = {found.generation: found for found in read_model.generations(connection)}
        if start.generation not in by_number:
            there = ", ".join(map(str, by_number)) or "none"
            raise UsageError(f"there is no generation {start.generation}", next_step=f"there are: {there}")
        rows = read_model.rows(connection, start.generation)
    said = by_number[start.generation].certificate
    certificate = None if said is None else msgspec.json.decode(said, type=KeptCertificate)
    why = _unproved(topic, certificate, rows)
    if certificate is None or why is not None:
        raise RefusedError(f"a shadow cannot start from generation {start.generation}: {why}", next_step=_FROM)
    reached = certificate.position if isinstance(certificate.position, dict) else {}
    positions = dict.fromkeys(sorted(topic.partitions), 0) | reached
    return _Begun(f"generation {start.generation}", positions, rows)


def _unproved(topic: Topic, certificate: KeptCertificate | None, rows: pl.DataFrame) -> str | None:
    """Return in words why rows are not proved to be what a replay makes of the topic, None where they are."""
    if certificate is None:
        return "it has no certificate"
    projections = {each.name: each.version for each in CORE}
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: certificate.source == "topic", f"it was rebuilt from the {certificate.source}"),
        (
            lambda: certificate.topic_id == topic.topic_id,
            "it was rebuilt from another topic, or before it was made again",
        ),
        (lambda: certificate.verdict == COMPLETE, f"it is {certificate.verdict}"),
        (lambda: projections.items() <= certificate.projections.items(), "another version of the replay made it"),
        (lambda: certificate.rows_digest is not None, "an earlier version made it, with no digest of all columns"),
        (
            lambda: stored_digest(rows) == certificate.rows_digest,
            "its rows are not its certificate's: promoted since, or damaged",
        ),
        # Nothing could be compared with the store without.
        (lambda: rows["chain"].null_count() == 0, "its rows lack the chain of their events"),
    ]
    return next((why for holds, why in checks if not holds()), None)

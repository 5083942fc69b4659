"""Rebuild and balances from a topic: the same answers as from the store, from the copy that survives without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from sqlalchemy import Connection as Session

from ledger import topics
from ledger.store import Store
from ledger.topics import KnownTopic
from projections import Projection
from replay.answers import Balances, answered, name_unknown, wanted
from replay.certificate import COMPLETE
from replay.full_replay import Replay
from replay.moment import Moment, Time, in_utc
from replay.rebuild import Rebuild, promote_generation, write_generation
from replay.store_source import StoreSource
from replay.topic.connection import Connection
from replay.topic.full_replay import Published, Watch, replayed_topic
from replay.topic.metadata import Topic
from replay.topic.refusals import refuse_other_topic, topic_named
from schemas import format_time
from schemas.errors import UsageError

__all__ = ["balances_from_topic", "found_topic", "rebuild_from_topic", "topic_watermark"]


def rebuild_from_topic(
    store: Store,
    connection: Connection,
    topic_name: str,
    *,
    until: dict[int, int] | None = None,
    promote: bool = False,
    accept_topic: bool = False,
    checkpoint_folder: Path | None = None,
    restart: bool = False,
    workers: int | None = None,
    watch: Watch | None = None,
    now: datetime | None = None,
    projections: Sequence[Projection] = (),
) -> Rebuild:
    """Replay a topic from offset zero into a new generation; with `promote`, make it live after it verifies.

    What the store knows of the topic is held against it: its identity, its partitions, the offsets vouched for
    (RefusedError; `accept_topic` waives these for this run), and the ends and the chains of the accounts that it
    published. Promote brings every account to the store's head and needs the same chain there. Otherwise as
    `replay.rebuild`.
    """
    created_at = format_time(now or datetime.now(UTC))
    topic, known = found_topic(store, connection, topic_name, accept_topic=accept_topic)
    _check_until(topic, until)
    folder = _folder(checkpoint_folder, topic, restart=restart)
    published = published_of(store, known)
    with replayed_topic(
        connection,
        topic,
        projections,
        ledger_id=store.ledger_id,
        until=until,
        checkpoint_folder=folder,
        published=published,
        links=True,
        workers=workers,
        watch=watch,
    ) as replay:
        vouch = None if accept_topic else _vouching(topic, replay)
        generation = write_generation(store, replay, created_at, vouch)
    promoted = promote and replay.verdict == COMPLETE
    if promoted:
        promote_generation(store, generation)
    if not replay.certificate.unread:
        # There is nothing left to go on with.
        _folder(checkpoint_folder, topic, restart=True)
    return Rebuild(replay.verdict, replay.certificate, generation, promoted)


def balances_from_topic(
    store: Store,
    connection: Connection,
    topic_name: str,
    account_ids: Sequence[str] = (),
    *,
    at: dict[int, int] | None = None,
    as_of: Time | None = None,
    recorded_as_of: Time | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
    now: Time | None = None,
) -> Balances:
    """Return the balances of some accounts (default: all) as a topic says, otherwise as `replay.balances`.

    The watermark is the newest moment up to which the topic is known to hold everything that the store has; None
    where that is not known: nothing was published, or this is not all of it (with `at` it never is). A moment after
    the watermark, and any moment where that is not known, gives INCOMPLETE and no row at all.
    """
    account_ids, clock = wanted(account_ids), in_utc(now, "now")
    moment = Moment.asked(as_of, recorded_as_of)
    topic, known = found_topic(store, connection, topic_name)
    _check_until(topic, at)
    published = published_of(store, known)
    with replayed_topic(
        connection,
        topic,
        ledger_id=store.ledger_id,
        until=at,
        moment=moment,
        published=published,
        links=published is not None,
        workers=workers,
        watch=watch,
    ) as replay:
        if not replay.certificate.unread:
            name_unknown(account_ids, replay)
        rows = replay.rows.filter(pl.col("account_id").is_in(account_ids)) if account_ids else replay.rows
        is_whole = at is None and _is_whole(replay)
        watermark = topic_watermark(store, known, clock) if is_whole and known is not None else None
        return answered(replay, rows, watermark, moment)


def found_topic(
    store: Store, connection: Connection, name: str, *, accept_topic: bool = False
) -> tuple[Topic, KnownTopic | None]:
    """Return a topic and what the store knows of it; RefusedError where the two do not agree."""
    with store.snapshot() as session:
        known = topics.known(session, name)
    topic = topic_named(connection, name, known)
    if not accept_topic:
        refuse_other_topic(topic, known)
    return topic, known


def published_of(store: Store, known: KnownTopic | None) -> Published | None:
    """Return where accounts ended in the store at the position that was published, None where none was."""
    if known is None or known.position == 0:
        return None
    with StoreSource.snapshot(store) as source:
        head = source.head()
        return Published(source.ends(min(known.position, head)), source.ends(head))


def _check_until(topic: Topic, until: dict[int, int] | None) -> None:
    if until is None:
        return
    highs = {partition: bounds.high for partition, bounds in topic.partitions.items()}
    if set(until) != set(highs) or any(not 0 <= until[partition] <= high for partition, high in highs.items()):
        raise UsageError(
            f"position {_text(until)} is not in topic {topic.name!r}",
            next_step=f"say the next offset of every partition; the ends are {_text(highs)}",
        )


def _text(position: dict[int, int]) -> str:
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(position.items()))


def _vouching(topic: Topic, replay: Replay) -> Callable[[Session], None]:
    """Return what notes how far the topic was seen whole, in the transaction that keeps the certificate."""

    def vouch(session: Session) -> None:
        position = replay.certificate.position
        if isinstance(position, dict):
            topics.vouch(session, topic.name, topic.topic_id, len(topic.partitions), position)

    return vouch


def _folder(folder: Path | None, topic: Topic, *, restart: bool) -> Path | None:
    """Return where the topic's checkpoints are; with `restart`, there are none any more."""
    if folder is not None and restart:
        for old in folder.glob(f"rebuild-{topic.topic_id}-*"):
            old.unlink(missing_ok=True)
    return folder


def _is_whole(replay: Replay) -> bool:
    """Say whether every event was there and could be read; a sum past int64 says nothing against that."""
    certificate = replay.certificate
    is_missing = any(parked.reason != "overflow" for parked in certificate.parked)
    return not (is_missing or certificate.poison or certificate.unread)


def topic_watermark(store: Store, known: KnownTopic, now: datetime | None) -> datetime | None:
    """Return the newest moment up to which what was published to a topic is all that the store has, None for none.

    What is `known` was asked before the topic was read: what is published meanwhile is not vouched for.
    """
    with store.snapshot() as session:
        if topics.parked(session, known.name).height:
            return None
    return published_until(store, known, now)


def published_until(store: Store, known: KnownTopic, now: datetime | None) -> datetime | None:
    """Return the same, but for accounts that the relay holds back."""
    # Taken before the store is looked at, so that what is appended later is not vouched for.
    latest = now or datetime.now(UTC)
    with store.snapshot() as session:
        if known.position == 0:
            return None
        head = store.head(session)
        if known.position >= head:
            return latest
        earliest = _earliest_recorded(StoreSource(store, session), known.position, head)
    # Moments are inclusive, so the last one that the topic is whole up to is the one just before.
    return None if earliest is None else min(latest, earliest - timedelta(microseconds=1))


def _earliest_recorded(source: StoreSource, after: int, until: int) -> datetime | None:
    """Return when the first of some events was recorded, None where one of them cannot be read.

    All are looked at, since an import brings events that other systems recorded long ago behind newer ones.
    """
    found: datetime | None = None
    for batch in source.read(after=after, until=until, details=("recorded_at",)):
        if batch.poison:
            return None
        here: datetime | None = batch.events["recorded_at"].min()  # type: ignore[assignment]  # a column of times.
        found = here if found is None or here is None else min(found, here)
    return found

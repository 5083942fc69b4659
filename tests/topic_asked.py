"""A store's events on a topic in memory, asked as `balances --from topic` asks, with what the store published known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from topic_memory import PARTITIONS, FakeReader

from ledger import Store, topics
from replay import Balances
from replay.full_replay import Replay
from replay.moment import Moment
from replay.topic import Connection, balances_from_topic, replayed_topic
from schemas import Event, encode

__all__ = ["Held", "ask", "held", "publish_to", "replay"]

CONNECTION = Connection(bootstrap_servers="nowhere:1")


class Held(NamedTuple):
    """An event on a partition."""

    partition: int
    event: Event

    @property
    def account_id(self) -> str:
        """Whose event it is."""
        return self.event.account_id

    @property
    def value(self) -> bytes:
        """What is on the topic."""
        return encode(self.event)


def held(events: Sequence[Event], *, is_split: bool = False) -> list[Held]:
    """Return events on partitions: an account's on one, or each on the next one where accounts are split."""
    places = {account_id: place for place, account_id in enumerate(sorted({event.account_id for event in events}))}
    return [
        Held((places[event.account_id] + (event.version if is_split else 0)) % PARTITIONS, event) for event in events
    ]


@contextmanager
def _reading(on_topic: list[Held]) -> Iterator[FakeReader]:
    reader = FakeReader(on_topic, 3, None)  # type: ignore[arg-type]  # they have what it asks of a record.

    @contextmanager
    def opened(*_: object) -> Iterator[FakeReader]:
        yield reader

    with (
        patch("replay.topic.workers.open_reader", opened),
        patch("replay.topic.split.open_reader", opened),
        patch("replay.topic.rebuild.topic_named", lambda *_: reader.topic),
    ):
        yield reader


def publish_to(store: Store, position: int) -> None:
    """Have the store believe that it published its events up to a position."""
    with store.writing() as session:
        topics.claim(session, "events", "id", PARTITIONS, {})
        topics.advance(session, "events", after=0, until=position, offsets={})


def ask(store: Store, on_topic: list[Held], account_ids: Sequence[str] = (), **options: Any) -> Balances:
    """Ask a topic for balances."""
    with _reading(on_topic):
        return balances_from_topic(store, CONNECTION, "events", account_ids, **options)


@contextmanager
def replay(on_topic: list[Held], *, moment: Moment | None = None, folder: Path | None = None) -> Iterator[Replay]:
    """Replay a topic as of a moment, with checkpoints in a folder."""
    with (
        _reading(on_topic) as reader,
        replayed_topic(CONNECTION, reader.topic, ledger_id="ledger", moment=moment, checkpoint_folder=folder) as found,
    ):
        yield found

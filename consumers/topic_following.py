"""What all who follow a topic for ever do alike: they wait for brokers, and refuse a topic that has lost records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from msgspec import structs

from replay.topic.client import Waiting
from replay.topic.connection import Connection
from replay.topic.metadata import Topic
from schemas.errors import BrokerError, BrokerRefused, RefusedError

__all__ = ["LOOK_SECONDS", "Patience", "quick", "refuse_lost"]

#: What a step says that it did.
Stepped = TypeVar("Stepped")

#: Seconds between two looks whether the topic is still the one that it was.
LOOK_SECONDS = 5.0

#: How long such a look may take: a step that waits for brokers ends soon, too.
LOOK_SECONDS_MAX = 5.0


def quick(connection: Connection) -> Connection:
    """Return a connection for looks at a topic, which gives up soon."""
    seconds = min(LOOK_SECONDS_MAX, connection.stall_timeout_seconds)
    return structs.replace(connection, stall_timeout_seconds=seconds)


class Patience:
    """Waits for brokers that do not answer, `seconds` at a time.

    `waiting` is told once that it waits, and why, and an empty text once it goes on.
    """

    def __init__(self, waiting: Waiting | None, *, seconds: float) -> None:
        self._waiting = waiting
        self._seconds = seconds
        self._is_waiting = False

    def step(self, step: Callable[[], Stepped], *, otherwise: Callable[[], Stepped], what: str) -> Stepped:
        """Return what a step gives, and after a wait that of `otherwise` where the brokers did not answer.

        `what` are the words that say what waits. BrokerRefused where a broker says no, which no wait mends.
        """
        try:
            found = step()
        except BrokerRefused:
            raise
        except BrokerError as error:
            self._tell(f"{what}: {error.what}")
            time.sleep(self._seconds)
            return otherwise()
        self._tell("")
        return found

    def _tell(self, why: str) -> None:
        if self._is_waiting == bool(why):
            return
        self._is_waiting = bool(why)
        if self._waiting is not None:
            self._waiting(why)


def refuse_lost(topic: Topic, positions: Mapping[int, int], reached: str, *, restart: str, instead: str) -> None:
    """RefusedError where a topic has not all that comes after some positions.

    `reached` are the words before a position. What to do next is `restart` where the topic is another one than before,
    and `instead` where its beginning is gone, since no restart brings that back.
    """
    where = f"topic {topic.name!r}"
    gone = sorted(set(positions) - set(topic.partitions))
    if gone:
        raise RefusedError(
            f"the topic has {len(topic.partitions)} partitions, and was read from {len(positions)}",
            where=f"{where}, partition {gone[0]}",
            next_step=restart,
        )
    for partition, bounds in sorted(topic.partitions.items()):
        position = positions.get(partition, 0)
        if bounds.first > position:
            lost, next_step = f"begins at offset {bounds.first:,}", instead
        elif bounds.high < position:
            lost, next_step = f"ends at offset {bounds.high:,}", restart
        else:
            continue
        raise RefusedError(
            f"partition {partition} {lost}, {reached} {position:,}: records were lost", where=where, next_step=next_step
        )

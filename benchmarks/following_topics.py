"""What is measured of a shadow that follows a topic: the bare loops of `benchmarks.following` beside it.

The same events as there are published, keyed by account, so that a batch has whatever the client has at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import polars as pl
from sqlalchemy import Connection

from benchmarks import topics
from benchmarks.following import (
    ACCOUNTS_FOLLOWED,
    APPENDED_EVENTS,
    BATCH_EVENTS,
    EVENTS_BEFORE,
    EVENTS_FOLLOWED,
    TURN_BATCHES,
    _append,
    _stream,
    _upserted,
    _upserted_one_by_one,
)
from benchmarks.report import Result
from consumers.relay import publish
from consumers.topic_shadow import TopicShadow
from ledger import read_model
from ledger.store import Store
from replay import topic_rows
from replay.rows import Beside, Folded, write
from tests.kafka_broker import BrokerUnavailableError

__all__ = ["TASKS", "results"]

Measured = dict[str, Any]


def follow(folder: Path) -> Measured:
    """Follow in batches of 5,000, in turn with the bare loops; `topic.json` of the folder says on which brokers."""
    connection, topic = topics.place_of(folder)
    with closing(Store.at(folder / "following")) as store:
        stream = _stream(ACCOUNTS_FOLLOWED, EVENTS_BEFORE + EVENTS_FOLLOWED, APPENDED_EVENTS)
        _append(store, islice(stream, EVENTS_BEFORE // APPENDED_EVENTS))
        publish(store, connection, topic, partitions=topics.PARTITIONS)
        opened = partial(_Settling, store, connection, topic, batch_events=BATCH_EVENTS)
        numbers = []
        for name in ("bare", "bulk"):
            with closing(opened(name=name)) as shadow:
                numbers.append(_at_head(shadow))
        with closing(opened(name="ours")) as shadow:
            numbers.append(_at_head(shadow))
            # It stays in the group: how long joining takes is up to the brokers.
            _append(store, stream)
            publish(store, connection, topic)
            measured = _followed(store, shadow, *numbers[:2])
        with store.snapshot() as session:
            *others, ours = (read_model.rows(session, number).sort("account_id") for number in numbers)
        assert ours["version"].sum() == EVENTS_BEFORE + EVENTS_FOLLOWED, "the shadow has other events"
        assert all(ours.equals(other) for other in others), "the bare loops wrote other rows"
    return measured


class _Settling(TopicShadow):
    """A shadow that can be told to end what it does ahead."""

    def settle(self) -> None:
        """Wait for what is read ahead."""
        if self._batches.ahead is not None:
            wait([self._batches.ahead])


def _at_head(shadow: _Settling) -> int:
    while shadow.step().lag_events:
        pass
    return shadow.shadow.number


def _followed(store: Store, shadow: _Settling, bare: int, bulk: int) -> Measured:
    seconds, bare_seconds, bulk_seconds, events = 0.0, 0.0, 0.0, 0
    changed: list[int] = []
    while events < EVENTS_FOLLOWED:
        found: list[pl.DataFrame] = []

        def kept(session: Connection, number: int, folded: Folded, beside: Beside | None) -> None:
            write(session, number, folded, beside)
            found.append(folded.changed)  # noqa: B023 - it is called in this turn only.

        with patch.object(topic_rows, "write", kept):
            start = perf_counter()
            while len(found) < TURN_BATCHES and events < EVENTS_FOLLOWED:
                events += shadow.step().events
            shadow.settle()
            seconds += perf_counter() - start
        changed += [rows.height for rows in found]
        bare_seconds += _upserted_one_by_one(store, bare, found)
        bulk_seconds += _upserted(store, bulk, found)
    return {
        "seconds": seconds,
        "bare_seconds": bare_seconds,
        "bulk_seconds": bulk_seconds,
        "events": events,
        "check": sum(changed),
        "settings": {"rows a batch": sum(changed) // len(changed)},
    }


TASKS: dict[str, Callable[[Path], Measured]] = {"follow topic sqlite": follow}


def results(run: Callable[[str, Path], Measured], data: Path) -> list[Result]:
    """Measure in a process of its own as `run` starts it, and compare with the target that the store has too."""
    name, folder = f"following a topic in batches of {BATCH_EVENTS:,}, sqlite", data / "follow-topic"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with topics.kafka() as place:
            topics.use(place, folder)
            ours = run("follow topic sqlite", folder)
    except BrokerUnavailableError as unavailable:
        return [Result.missing(name, str(unavailable))]
    return [
        Result.faster(name, [ours], [ours | {"seconds": ours[f"{which}_seconds"]}], times_min=0.7, than=than)
        for which, than in (("bare", "bare loop, executemany"), ("bulk", "bare loop, our own bulk upsert"))
    ]

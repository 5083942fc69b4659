"""A replay of the topic for the system's check: beside a store as `rebuild --from topic` does, and without one."""

from __future__ import annotations

from collections.abc import Callable

from ledger import topics
from ledger.store import Store
from replay.certificate import Certificate
from replay.topic.connection import Connection
from replay.topic.full_replay import Watch, replayed_topic
from replay.topic.metadata import describe
from replay.topic.rebuild import found_topic, published_of

__all__ = ["topic_check"]


def topic_check(
    connection: Connection, name: str, *, watch: Watch | None = None
) -> Callable[[Store | None], Certificate | None]:
    """Return what replays a topic and gives its certificate, None where there is none and none is known.

    Nothing is written. Beside a store, what that knows of the topic is held against it. It raises as
    `replay.topic.rebuild` does.
    """

    def ask(store: Store | None) -> Certificate | None:
        published, ledger_id = None, ""
        topic = describe(connection, name)
        if store is not None:
            if topic is None and not _is_known(store, name):
                return None
            topic, known = found_topic(store, connection, name)
            published, ledger_id = published_of(store, known), store.ledger_id
        if topic is None:
            return None
        with replayed_topic(
            connection, topic, ledger_id=ledger_id, published=published, links=published is not None, watch=watch
        ) as replay:
            return replay.certificate

    return ask


def _is_known(store: Store, name: str) -> bool:
    with store.snapshot() as connection:
        return topics.known(connection, name) is not None

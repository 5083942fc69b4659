"""A topic of orders in memory, for what reads it: the topic and the groups are those of the shadows' tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from topic_groups import MemoryTopic

__all__ = ["orders_in_memory"]


@contextmanager
def orders_in_memory(topic: MemoryTopic) -> Iterator[MemoryTopic]:
    """Have readers of orders read this topic."""
    with (
        patch("consumers.orders_topic.Group", topic.join),
        patch("consumers.orders_topic.describe", topic.describe),
        patch("consumers.orders_topic.topic_named", lambda *_, **__: topic.describe()),
        patch("consumers.reconciliation.read_until.describe", topic.describe),
    ):
        yield topic

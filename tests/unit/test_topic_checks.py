"""Which topics are fit to be published to, by what the broker and the store say of them."""

from __future__ import annotations

import pytest

from consumers.topics import SETTINGS, check_topic
from replay.topic.metadata import Bounds, Topic
from schemas.errors import RefusedError


def topic(settings: dict[str, str] = SETTINGS, **bounds: tuple[int, int]) -> Topic:
    """Return a topic with these partitions, given as p0=(first, high)."""
    partitions = {int(name[1:]): Bounds(first, high, high) for name, (first, high) in bounds.items()}
    return Topic(name="ledger-events", topic_id="one", partitions=partitions, settings=settings)


def test_a_topic_that_keeps_everything_is_fit():
    """With all settings as they must be, and the first records there, nothing is said."""
    check_topic(topic(p0=(0, 9)))


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_a_setting_that_the_broker_does_not_tell_is_refused(setting):
    """What is not known to keep everything is refused by the setting's name, and taken where that is accepted."""
    known = {name: value for name, value in SETTINGS.items() if name != setting}
    with pytest.raises(RefusedError, match=rf"does not tell its {setting}.*--accept-retention"):
        check_topic(topic(known, p0=(0, 9)))
    check_topic(topic(known, p0=(0, 9)), accept_retention=True)

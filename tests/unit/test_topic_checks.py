"""Which topics are fit to be published to, by what the broker and the store say of them."""

from __future__ import annotations

import pytest

from consumers.topics import SETTINGS, check_known, check_topic
from ledger.topics import KnownTopic
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


@pytest.mark.parametrize("known", [None, KnownTopic("ledger-events", "one", 1, 0, {0: 9}, None)])
def test_records_of_a_topic_that_was_never_published_to_are_a_strangers(known):
    """Nothing known, or only what a replay saw, leaves a topic a stranger's unless it is empty."""
    with pytest.raises(RefusedError, match="knows nothing of it"):
        check_known(topic(p0=(0, 9)), known)
    check_known(topic(p0=(0, 0)), None)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (KnownTopic("ledger-events", "two", 1, 5, {0: 9}, {0: 9}), "made again: its id is one, known is two"),
        (KnownTopic("ledger-events", "one", 2, 5, {0: 9}, {0: 9}), "has 1 partitions, known are 2"),
        (KnownTopic("ledger-events", "one", 1, 5, {0: 10}, {0: 9}), "ends at offset 9, known are 10"),
    ],
    ids=["id", "partitions", "end"],
)
def test_a_topic_that_is_not_the_known_one_is_refused(known, why):
    """Another identity, other partitions or a lost end are refused with what publishing can do about it."""
    with pytest.raises(RefusedError, match=rf"{why}.*publish --accept-topic"):
        check_known(topic(p0=(0, 9)), known)


def test_what_a_crashed_first_run_left_is_no_strangers():
    """A topic that was claimed before the first send is known, whatever was noted since."""
    check_known(topic(p0=(0, 9)), KnownTopic("ledger-events", "one", 1, 0, {}, {}))

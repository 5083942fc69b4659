"""The shadow of a topic, step by step, over a topic and a group in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from msgspec import structs
from samples import account_stream, recorded
from shadows import Stored, stored, to_head
from topic_cases import history, records_of
from topic_groups import NOWHERE, MemoryTopic, in_memory, replayed_memory, said_by_topic
from topics import Record

from consumers import topic_shadow
from consumers.shadow import Start
from consumers.topic_shadow import TopicShadow
from ledger import Store, read_model, shadows
from replay import topic_rows
from replay.digest import digest
from replay.rebuild import write_generation
from schemas import encode
from schemas.errors import BrokerError, RefusedError, UsageError

POISON = b'{"event":"account.vanished"}'
MAX = 2**63 - 1


@pytest.fixture
def topic() -> Iterator[MemoryTopic]:
    """A topic of three partitions."""
    with in_memory(MemoryTopic(3)) as topic:
        yield topic


@pytest.fixture
def opened(store: Store, topic: MemoryTopic) -> Iterator[Callable[..., TopicShadow]]:
    """Opens instances of the shadow, which are closed at the end."""
    instances: list[TopicShadow] = []

    def open_one(**options: object) -> TopicShadow:
        instances.append(TopicShadow(store, NOWHERE, "events", **{"batch_events": 4, "poll_seconds": 0.0} | options))
        return instances[-1]

    yield open_one
    for instance in instances:
        instance.close()


def replayed(topic: MemoryTopic) -> Stored:
    """Return what a replay of the topic says."""
    with replayed_memory(topic) as replay:
        return said_by_topic(replay)


def check(store: Store, topic: MemoryTopic) -> None:
    """Compare all that is stored with a replay of the topic, and the digest of the rows with the certificate's."""
    found, expected = stored(store), replayed(topic)
    assert found.positions == expected.positions
    assert found.parked == expected.parked
    assert found.rows.equals(expected.rows)
    with replayed_memory(topic) as replay:
        assert replay.certificate.digest == digest_of(found)


def digest_of(found: Stored) -> str:
    """Return the digest of rows as a certificate has it."""
    return digest(found.rows.with_columns(available=found.rows["balance"] - found.rows["frozen"]))


def event(account_id: str, version: int, amount: int = 10, **fields: object) -> Record:
    """A record of a credit."""
    return account_id.encode(), encode(recorded(account_id, version, amount, **fields))


def stream(account_id: str, events: int) -> list[Record]:
    """The records of an account."""
    return records_of(account_stream(account_id, events))


class _Killed(Exception):
    """The process ends here."""


def _happening(chance: random.Random, topic: MemoryTopic) -> None:
    """Write a history as an untidy world does: anywhere, twice, late, damaged, between records that do not count."""
    records: list[Record | None] = list(records_of(history(8, 80, seed=chance.randrange(1_000))))
    late = [records.pop(chance.randrange(len(records))) for _ in range(3)]
    poison: list[Record] = [(b"account-1", POISON), (b"account-2", None), (b"account-3", event("account-3", 9_999)[1])]
    poison += [(None, b'{"event":"account.vanished","account_id":"account-4","version":4}'), (None, b"nobody's")]
    for record in chance.sample(poison, chance.randrange(len(poison))) + late[: chance.randrange(3)]:
        records.insert(chance.randrange(len(records)), record)
    homes = {f"account-{number}": number % 3 for number in range(8)}
    for record in records:
        if chance.random() < 0.1:
            topic.logs[chance.randrange(3)].append(None)
        home = 0 if record is None or record[0] is None else homes[record[0].decode()]
        for _ in range(1 if chance.random() < 0.9 else 2):
            topic.logs[home if chance.random() < 0.7 else chance.randrange(3)].append(record)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_rows_and_parked_accounts_are_those_of_a_replay(store, topic, opened, seed):
    """Instances that share partitions, lose them, are killed at any step or sleep over one: each event counts once."""
    chance = random.Random(seed)
    _happening(chance, topic)
    logs = {partition: list(log) for partition, log in topic.logs.items()}
    topic.logs = {partition: [] for partition in logs}
    sleeping: list[int] = []

    def at(number: int) -> Callable[[str], None]:
        def point(name: str) -> None:
            if chance.random() < 0.05:
                raise _Killed
            if name in ("read", "fold") and not sleeping and number == 0 and chance.random() < 0.2:
                # Another instance has its partitions, and goes on, while this one sleeps with a batch in its hands.
                sleeping.append(number)
                step(1)
                sleeping.clear()

        return point

    instances = [opened(at=at(number)) for number in range(2)]

    def step(number: int) -> None:
        try:
            instances[number].step()
        except _Killed:
            instances[number] = opened(at=at(number))

    for _ in range(120):
        positions = stored(store).positions
        for partition, log in logs.items():
            end = len(topic.logs[partition]) + chance.randrange(4)
            topic.logs[partition] = log[:end]
            topic.open_from[partition] = max(positions[partition], min(end, len(log)) - chance.randrange(2))
        if chance.random() < 0.2:
            topic.members[-1].give(*chance.sample(range(3), chance.randrange(4)))
        step(chance.randrange(2))
    topic.logs, topic.open_from = logs, {}
    last = opened()
    to_head(last)
    check(store, topic)


def test_a_gap_is_filled_from_another_partition_by_another_instance(store, topic, opened):
    """What one instance keeps waiting is applied by whoever reads what was missing."""
    records = stream("a", 9)
    topic.logs[0] = [*records[:2], *records[3:6], records[7]]
    first, second = opened(), opened()
    topic.members[0].give(0)
    topic.members[1].give(1, 2)
    to_head_of(first)
    assert stored(store).parked == {"a": (3, "version_gap")}
    check(store, topic)
    topic.logs[1] = [records[6], records[2]]
    to_head_of(second)
    assert stored(store).parked == {}
    assert stored(store).rows["version"].to_list() == [8]
    check(store, topic)


def to_head_of(shadow: TopicShadow) -> None:
    """Step until it has nothing more to do, whatever other instances have."""
    while True:
        before = shadow.step().position
        if shadow.step().position == before:
            return


@pytest.mark.parametrize("batch_events", [1, 2, 100])
def test_two_contents_of_a_version_are_a_conflict_where_both_are_at_hand(store, topic, opened, batch_events):
    """In one batch, or while the first of them waits: then the account is parked for good, as a replay says."""
    topic.logs[0] = [*stream("a", 2), *stream("b", 2)[:1], event("b", 3, 10), event("b", 3, 11), event("b", 2)]
    shadow = opened(batch_events=batch_events)
    to_head(shadow)
    assert stored(store).parked == {"b": (3, "conflicting_repeat")}
    check(store, topic)
    topic.logs[0] += [event("b", 4), event("a", 3)]
    to_head(shadow)
    check(store, topic)


def test_a_late_copy_with_other_content_is_taken_for_a_repeat(store, topic, opened):
    """Of what is in a row already nothing is left to compare it with; a replay of the topic names it."""
    topic.logs[0] = stream("a", 3)
    shadow = opened()
    to_head(shadow)
    before = stored(store)
    topic.logs[0] += [event("a", 2, 11)]
    to_head(shadow)
    assert (stored(store).rows.equals(before.rows), stored(store).parked) == (True, {})
    assert replayed(topic).parked == {"a": (2, "conflicting_repeat")}


def test_poison_is_harmless_once_its_version_came(store, topic, opened):
    """A payload that is no event parks its account until an event of that version is there, one without for good."""
    bad = encode(recorded("a", 3)).replace(b"credit", b"cradle")
    topic.logs[0] = [*stream("a", 2), (b"a", bad), event("a", 4), *stream("b", 2), (b"b", None), event("b", 3)]
    shadow = opened(batch_events=3)
    to_head(shadow)
    assert stored(store).parked == {"a": (3, "poison_event"), "b": (4, "poison_event")}
    check(store, topic)
    topic.logs[1] = [event("a", 3), event("b", 4)]
    to_head(shadow)
    assert stored(store).parked == {"b": (5, "poison_event")}
    check(store, topic)


def test_keys_that_no_database_takes_are_named_as_far_as_they_can_be(store, topic, opened):
    """A payload that is no event may have any bytes for a key, and does not stop the shadow."""
    topic.logs[0] = [(b"a\x00\xff", POISON), (b"", POISON), *stream("b", 2)]
    to_head(opened())
    assert stored(store).parked == {"a\ufffd\ufffd": (1, "poison_event"), "": (1, "poison_event")}
    assert stored(store).rows["account_id"].to_list() == ["b"]


def test_a_sum_past_int64_parks_until_it_is_back(store, topic, opened):
    """An account whose balance does not fit waits with its events, and has its row again when it does."""
    topic.logs[0] = [*stream("a", 2), event("a", 3, MAX), event("a", 4, 1)]
    shadow = opened(batch_events=2)
    to_head(shadow)
    assert stored(store).parked == {"a": (4, "overflow")}
    check(store, topic)
    topic.logs[0] += [event("a", 5, MAX, type="debit")]
    to_head(shadow)
    assert stored(store).parked == {}
    check(store, topic)


def test_what_waits_is_bounded(store, topic, opened, monkeypatch):
    """Past the limit what waits of the accounts at hand is let go: they stay parked, and others are freed."""
    monkeypatch.setattr(topic_rows, "WAITING_EVENTS_MAX", 3)
    topic.logs[0] = [*stream("b", 4)[1:3], *stream("a", 5)[1:4]]
    shadow = opened(batch_events=3)
    to_head(shadow)
    # The second batch was too much, and nothing is left of its account.
    assert stored(store).parked == {"a": (1, "version_gap"), "b": (1, "version_gap")}
    topic.logs[0] += [*stream("a", 6), *stream("c", 2), *stream("b", 1)]
    to_head(shadow)
    found = stored(store)
    assert found.parked == {"a": (1, "version_gap")}
    assert found.rows.select("account_id", "version").rows() == [("b", 3), ("c", 2)]
    with store.snapshot() as connection:
        assert shadows.waiting_events(connection, shadow.shadow) == 0
    again = opened(restart=True)
    monkeypatch.undo()
    to_head(again)
    check(store, topic)


def test_new_partitions_are_read_from_their_beginning(store, topic, opened):
    """A topic that is given partitions is followed there too, an instance that does not read them included."""
    records = stream("a", 6)
    topic.logs[0] = records[:3]
    shadow = opened()
    to_head(shadow)
    topic.logs[3] = records[3:]
    shadow._looked_at -= topic_shadow.LOOK_SECONDS
    to_head(shadow)
    assert stored(store).positions == {0: 3, 1: 0, 2: 0, 3: 3}
    check(store, topic)


def test_a_topic_that_is_not_what_it_was_is_refused(store, topic, opened):
    """Fewer partitions, another id, none at all, lost ends and lost beginnings: each stops it, open or opened anew."""
    topic.logs[0] = stream("a", 6)
    shadow = opened()
    shadow.step()
    before = dict(topic.logs)

    def refused(says: str) -> None:
        shadow._looked_at -= topic_shadow.LOOK_SECONDS
        for again in (shadow.step, opened):
            with pytest.raises(RefusedError, match=says):
                again()

    topic.first[0] = 5
    refused("begins at offset 5, the shadow 'shadow' is at 4: records were lost")
    topic.first.clear()
    topic.logs[0] = before[0][:3]
    refused("ends at offset 3, the shadow 'shadow' is at 4: records were lost")
    topic.logs = {0: before[0], 1: []}
    refused("has 2 partitions, and was read from 3")
    topic.logs, topic.topic_id = before, "other"
    refused("was made again: its id is other")
    topic.topic_id = None
    shadow._looked_at -= topic_shadow.LOOK_SECONDS
    with pytest.raises(RefusedError, match="the topic is gone"):
        shadow.step()
    topic.topic_id = "id"
    to_head(opened())
    check(store, topic)


def test_a_shadow_of_something_else_is_refused(store, topic, opened):
    """One that follows the store, or another topic, is not taken over, unless it is begun anew."""
    with store.writing() as connection:
        fields = {"source": "store", "source_id": "x", "topic": None, "started_from": "zero", "created_at": ""}
        shadows.create(connection, name="shadow", positions={0: 7}, **fields)
        fields |= {"source": "topic", "topic": "orders"}
        shadows.create(connection, name="other", positions={0: 7}, **fields)
    with pytest.raises(RefusedError, match="follows the store, not the topic 'events'"):
        opened()
    with pytest.raises(RefusedError, match="follows the topic 'orders', not the topic 'events'"):
        opened(name="other")
    assert opened(restart=True).step().position == {0: 0, 1: 0, 2: 0}


def test_a_partition_that_cannot_be_read_stops_it_where_that_is(store, topic, opened):
    """Everything before the damage is applied, nothing behind it is, and the error says where and why."""
    topic.logs[0], topic.logs[1] = stream("a", 6), stream("b", 3)
    topic.damaged[0] = 5
    shadow = opened(batch_events=100)
    assert shadow.step().position == {0: 5, 1: 3, 2: 0}
    for _ in range(2):
        with pytest.raises(RefusedError, match="corrupt") as caught:
            shadow.step()
        assert "partition 0, offset 5" in caught.value.where
    topic.damaged.clear()
    to_head(opened())
    check(store, topic)


def test_brokers_that_do_not_answer_are_waited_for(store, topic, opened):
    """It says so once, and goes on by itself."""
    said: list[str] = []
    topic.logs[0] = stream("a", 3)
    shadow = opened(waiting=said.append, batch_events=2)
    assert (shadow.step().lag_events, said) == (1, [])
    topic.is_down = True
    # What was read before that is still applied.
    while not said:
        shadow.step()
    topic.logs[0] += [event("a", 4)]
    for _ in range(3):
        assert shadow.step().events == 0
    assert len(said) == 1
    topic.is_down = False
    to_head(shadow)
    assert said[1:] == [""]
    check(store, topic)
    topic.is_down = True
    with pytest.raises(BrokerError):
        opened()


def test_what_an_open_transaction_holds_back_is_no_lag(store, topic, opened, monkeypatch):
    """Nobody can read it, so the shadow has caught up; one that does not move on is told until it has ended."""
    monkeypatch.setattr(topic_shadow, "LOOK_SECONDS", 0.0)
    topic.logs[0] = stream("a", 5)
    topic.open_from[0] = 3
    shadow = opened()
    shadow.step()
    for instance in (shadow, opened()):
        said = [instance.step() for _ in range(2)]
        assert {(step.position[0], step.head[0], step.lag_events) for step in said} == {(3, 3, 0)}
        assert said[1].held_back_events == 2
    # Another transaction is open, which is nothing unusual.
    topic.logs[0] += stream("b", 3)
    topic.open_from[0] = 5
    assert (shadow.step().events, shadow.step().held_back_events) == (2, 3)
    topic.logs[0] += stream("c", 1)
    topic.open_from[0] = 6
    assert shadow.step().held_back_events == 0
    topic.open_from.clear()
    to_head(shadow)
    assert shadow.step().held_back_events == 0
    check(store, topic)


@pytest.mark.parametrize("seed", range(8))
def test_batches_folded_ahead_are_those_of_a_replay(store, topic, opened, seed):
    """One instance that is far behind an untidy topic comes to what a replay says after every single step."""
    _happening(random.Random(seed), topic)
    shadow = opened(batch_events=random.Random(seed).randrange(2, 9))
    # What was read already is another topic: this one is read meanwhile.
    read = MemoryTopic(3)
    while (step := shadow.step()).lag_events:
        read.logs = {partition: topic.logs[partition][:end] for partition, end in step.position.items()}
        check(store, read)
    assert step.position == {partition: len(log) for partition, log in topic.logs.items()}
    check(store, topic)


def test_rows_that_another_instance_wrote_are_seen(store, topic, opened):
    """An account may be on a partition of another one, which writes its row after this one has folded ahead."""
    topic.logs[0] = [*stream("b", 4), *stream("a", 2), *stream("b", 6)[4:]]
    topic.logs[1] = stream("a", 5)[2:]
    topic.open_from[1] = 0
    folds: list[str] = []

    def at(reached: str) -> None:
        folds.extend([reached] if reached == "fold" else [])
        if reached == "fold" and len(folds) == 2:
            topic.open_from.clear()
            to_head_of(other)

    other = opened()
    topic.members[0].give(1)
    shadow = opened(at=at)
    to_head(shadow)
    assert stored(store).parked == {}
    check(store, topic)


def test_the_newest_event_says_when_it_was_recorded(store, topic, opened):
    """A step that applied events says when the newest of them was recorded, others do not."""
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    topic.logs[0] = [*stream("a", 2), (b"a", encode(structs.replace(recorded("a", 3), recorded_at=moment)))]
    topic.logs[1] = stream("b", 3)
    shadow = opened(batch_events=100)
    assert shadow.step().recorded_at == moment
    assert shadow.step().recorded_at is None


def test_it_starts_from_a_generation_of_this_topic(store, topic, opened):
    """Rows of a generation that was rebuilt from it are taken over at its offsets, if they are still the same."""
    topic.logs[0], topic.logs[1] = stream("a", 3), stream("b", 3)
    with replayed_memory(topic) as replay:
        number = write_generation(store, replay, "2024-01-01T00:00:00.000000Z")
    topic.logs[0] = stream("a", 5)
    shadow = opened(start=Start(generation=number))
    assert shadow.shadow.started_from == f"generation {number}"
    assert to_head(shadow)[1] == 2
    check(store, topic)
    with pytest.raises(UsageError, match="there is no generation 77"):
        opened(name="other", start=Start(generation=77))
    with store.writing() as connection:
        rows = read_model.rows(connection, number, ["a"])
        # No digest of balances has this column.
        read_model.write_rows(connection, number, rows.with_columns(status_version=1))
    with pytest.raises(RefusedError, match="its rows are not its certificate's"):
        opened(name="other", start=Start(generation=number))
    topic.topic_id = "again"
    with pytest.raises(RefusedError, match="another topic"):
        opened(name="other", start=Start(generation=number))


def test_it_does_not_begin_with_a_topic_that_lost_its_beginning(store, topic, opened):
    """There is nothing to say of accounts whose first events are gone, and no shadow is made."""
    topic.logs[0] = stream("a", 3)
    topic.first[0] = 1
    with pytest.raises(RefusedError, match="begins at offset 1, the shadow 'shadow' is at 0"):
        opened()
    with store.snapshot() as connection:
        assert shadows.find(connection, "shadow") is None


def test_closing_leaves_the_group(topic, opened):
    """Its partitions are free for others at once."""
    opened().close()
    assert topic.members[0].is_closed


@pytest.mark.parametrize("point", ["read", "fold", "write", "commit"])
def test_a_step_that_fails_is_made_again(store, topic, opened, point):
    """An error on the way, of the database say, leaves nothing behind, and the same instance reads the batch again."""
    topic.logs[0] = stream("a", 3)
    left = [1]

    def at(reached: str) -> None:
        if reached == point and left:
            left.clear()
            raise _Killed

    shadow = opened(at=at)
    with pytest.raises(_Killed):
        shadow.step()
    assert (stored(store).positions, stored(store).rows.height) == ({0: 0, 1: 0, 2: 0}, 0)
    to_head(shadow)
    check(store, topic)


@pytest.mark.parametrize("point", ["read", "fold"])
def test_a_batch_that_another_instance_applied_is_void(store, topic, opened, point):
    """One that sleeps over its batch says that it applied nothing, and no position goes back."""
    topic.logs[0], topic.logs[1] = stream("a", 9), stream("b", 9)
    other = opened()
    sleeps = [True]

    def at(reached: str) -> None:
        if reached == point and sleeps:
            sleeps.clear()
            to_head(other)

    step = opened(at=at).step()
    assert (step.events, step.position) == (0, {0: 9, 1: 9, 2: 0})
    check(store, topic)

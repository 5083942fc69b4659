"""A damaged log: whatever byte of a closed segment is flipped, no replay is COMPLETE with another digest."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka_broker import OwnBroker
from samples import recorded
from topic_cases import CLIENTS, connection_to, history, records_of
from topics import make_topic, segment_files, send, send_transaction

from ledger import Store
from replay import generations
from replay.answers import Balances
from replay.topic import balances_from_topic, rebuild_from_topic
from schemas.errors import RefusedError

pytestmark = pytest.mark.kafka

PATIENCE_SECONDS = 1.0
SEGMENT_BYTES = 65_536
EVENTS = 1_500

#: The header of a batch: where each field is, and how long. The checksum covers what comes after it.
HEADER = {
    "base_offset": (0, 8),
    "length": (8, 4),
    "leader_epoch": (12, 4),
    "magic": (16, 1),
    "crc": (17, 4),
    "attributes": (21, 2),
    "last_offset_delta": (23, 4),
    "first_timestamp": (27, 8),
    "max_timestamp": (35, 8),
    "producer_id": (43, 8),
    "producer_epoch": (51, 2),
    "base_sequence": (53, 4),
    "record_count": (57, 4),
}
HEADER_BYTES = 61


class Place(NamedTuple):
    """A bit of a log: in which file, at which byte, in which field, and which offset the batch begins at."""

    file: Path
    at: int
    bit: int
    field: str
    base_offset: int


def batches(file: Path) -> Iterator[tuple[int, int, int]]:
    """Where each batch of a segment begins, how many bytes it has, and its base offset."""
    data, at = file.read_bytes(), 0
    while at < len(data):
        base_offset, length = struct.unpack_from(">qi", data, at)
        yield at, length + 12, base_offset
        at += length + 12


def places(files: list[Path], chance: random.Random) -> Iterator[Place]:
    """Bits to flip, without end: every field of a header in turn, and as many bytes behind it, in any batch."""
    known = [(file, *batch) for file in files for batch in batches(file)]
    while True:
        for field, (begins, size) in HEADER.items():
            file, at, _, base_offset = chance.choice(known)
            # Low bits, which stay near the truth, more often than high ones, which are easy to see.
            byte = begins + size - 1 - min(chance.randrange(size), chance.randrange(size))
            yield Place(file, at + byte, chance.randrange(8), field, base_offset)
            file, at, batch_bytes, base_offset = chance.choice(known)
            yield Place(
                file, at + chance.randrange(HEADER_BYTES, batch_bytes), chance.randrange(8), "records", base_offset
            )


def flip(place: Place) -> None:
    """Flip one bit on the disk."""
    with place.file.open("r+b", buffering=0) as file:
        file.seek(place.at)
        (byte,) = file.read(1)
        file.seek(place.at)
        file.write(bytes([byte ^ 1 << place.bit]))


@contextmanager
def flipped(place: Place) -> Iterator[None]:
    """Flip one bit on the disk for as long as the context lasts."""
    flip(place)
    try:
        yield
    finally:
        flip(place)


def replay(store: Store, broker: OwnBroker, topic: str, client: str) -> Balances:
    """The balances of a topic by a client."""
    return balances_from_topic(store, connection_to(broker, client, PATIENCE_SECONDS), topic)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that knows nothing of any topic."""
    store = Store.at(tmp_path)
    yield store
    store.close()


def write(broker: OwnBroker, topic: str, *, with_transactions: bool) -> None:
    """Write a topic of many small batches in many small segments."""
    make_topic(broker, topic, 2, segment_bytes=SEGMENT_BYTES)
    records = records_of(history(accounts=24, events=EVENTS))
    if not with_transactions:
        send(broker, topic, records)
        return
    for first in range(0, EVENTS, 150):
        some = records[first : first + 150]
        # What is aborted is as good as what is committed, and would be taken first.
        void = records_of(recorded(f"account-{number}", 1, 999) for number in range(24))
        send_transaction(broker, topic, void, end="abort", client="librdkafka")
        send_transaction(broker, topic, some, client="librdkafka")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_transactions", [True, False], ids=["transactions", "plain"])
def test_no_flipped_bit_changes_the_digest(own_kafka: OwnBroker, topic_name, store, seed, with_transactions):
    """Either the digest is the right one, or the replay says from which offset of which partition it is not whole."""
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    write(own_kafka, topic_name, with_transactions=with_transactions)
    whole = {client: replay(store, own_kafka, topic_name, client) for client in CLIENTS}
    assert {(found.verdict, found.certificate.digest) for found in whole.values()} == {
        ("COMPLETE", whole["kafka-python"].certificate.digest)
    }
    assert whole["kafka-python"].certificate.events == EVENTS
    seen = set()
    partition = seed % 2
    files = segment_files(own_kafka, topic_name, partition)[:-1]
    assert files
    chosen = islice(places(files, random.Random(seed)), 2 * len(HEADER))
    for place, client in ((place, client) for place in chosen for client in CLIENTS):
        with flipped(place):
            found = replay(store, own_kafka, topic_name, client)
        message = f"{client}: {place}: {found.certificate}"
        if found.verdict == "COMPLETE":
            assert found.certificate.digest == whole[client].certificate.digest, message
            assert found.certificate.events == EVENTS, message
            continue
        (unread,) = found.certificate.unread
        assert unread.partition == partition, message
        # An epoch is believed for what comes after the batch that claims it.
        assert unread.offset <= place.base_offset or place.field == "leader_epoch", message
        assert unread.details, message
        seen.add((place.field, client))
    assert {field for field, _ in seen} >= {"records", "crc", "attributes"}
    for client in CLIENTS:
        assert replay(store, own_kafka, topic_name, client).certificate.digest == whole[client].certificate.digest


#: Bits of a batch's offset that put it behind itself, just before itself, past the end of the topic, and below zero.
OFFSET_BITS = {"a little later": (7, 5), "past the end": (4, 2), "below zero": (0, 7)}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("bit", OFFSET_BITS)
def test_a_batch_that_claims_other_offsets(own_kafka: OwnBroker, topic_name, store, client, bit):
    """No checksum covers the offset of a batch: what a client would jump over is found, and named to the offset."""
    write(own_kafka, topic_name, with_transactions=False)
    whole = replay(store, own_kafka, topic_name, client)
    file = segment_files(own_kafka, topic_name)[1]
    at, _, base_offset = list(batches(file))[1]
    byte, place = OFFSET_BITS[bit]
    with flipped(Place(file, at + byte, place, "base_offset", base_offset)):
        found = replay(store, own_kafka, topic_name, client)
    if client == "librdkafka" and found.verdict == "COMPLETE":
        # It takes the batch for what it holds, not for what it says, where that comes in one answer of the broker.
        assert found.certificate.digest == whole.certificate.digest
        assert found.certificate.events == EVENTS
        return
    (unread,) = found.certificate.unread
    assert (unread.partition, unread.offset) == (0, base_offset)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_aborted_batch_of_another_format(own_kafka: OwnBroker, topic_name, store, client):
    """No checksum covers the format of a batch: one of an aborted transaction is not taken for committed records."""
    make_topic(own_kafka, topic_name, 1, segment_bytes=SEGMENT_BYTES)
    void = records_of(recorded("account-0", version, 999) for version in range(1, 200))
    send_transaction(own_kafka, topic_name, void, end="abort")
    send(own_kafka, topic_name, records_of(history(accounts=1, events=200)))
    before = replay(store, own_kafka, topic_name, client)
    assert (before.verdict, before.certificate.events) == ("COMPLETE", 200)
    file = segment_files(own_kafka, topic_name)[0]
    at, _, base_offset = next(batches(file))
    with flipped(Place(file, at + HEADER["magic"][0], 0, "magic", base_offset)):
        found = replay(store, own_kafka, topic_name, client)
    if found.verdict == "COMPLETE":
        assert found.certificate.digest == before.certificate.digest
    else:
        (unread,) = found.certificate.unread
        assert unread.offset == base_offset


def test_a_broker_that_cuts_off_what_is_damaged(own_kafka: OwnBroker, topic_name, store):
    """A broker that crashes cuts its log at a damaged batch when it comes back; a replay refuses the shorter topic."""
    write(own_kafka, topic_name, with_transactions=False)
    connection = connection_to(own_kafka)
    assert rebuild_from_topic(store, connection, topic_name).verdict == "COMPLETE"
    file = segment_files(own_kafka, topic_name)[0]
    at, _, base_offset = list(batches(file))[1]
    own_kafka.kill()
    flip(Place(file, at + HEADER_BYTES + 5, 3, "records", base_offset))
    own_kafka.start()
    with pytest.raises(RefusedError, match=f"partition 0 ends at offset {base_offset}, known are"):
        rebuild_from_topic(store, connection, topic_name)
    assert len(generations(store)) == 1

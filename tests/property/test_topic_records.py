"""Records taken apart by columns are those that kafka-python makes one by one, damaged ones too."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from replay.topic.records import Body, MalformedBatchError, places_of, records_of

UNTIL = 2**40

#: Sizes about those at which a length takes one byte more.
some_bytes = st.one_of(st.none(), st.binary(max_size=70), st.sampled_from([63, 64, 8191, 8192, 20_000]).map(bytes))
headers = st.lists(st.tuples(st.text(max_size=3), st.one_of(st.none(), st.binary(max_size=3))), max_size=3)
records = st.tuples(st.integers(0, 2**41), some_bytes, some_bytes, headers)
batches = st.lists(st.lists(records, max_size=6), max_size=4)


def data_of(batch: list[tuple]) -> bytes:
    """The records of a batch as they lie in it, offsets from 0."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10**9,
    )
    for offset, (timestamp, key, value, some_headers) in enumerate(batch):
        builder.append(offset, timestamp, key, value, some_headers)
    return bytes(builder.build())[DefaultRecordBatch.HEADER_STRUCT.size :]


def one_by_one(data: bytes, count: int) -> list[tuple]:
    """What kafka-python reads there: offset, key and value of each; CorruptRecordError."""
    header = DefaultRecordBatch.HEADER_STRUCT.pack(0, 0, 0, 2, 0, 0, 0, 0, 0, -1, -1, -1, count)
    return [(record.offset, record.key, record.value) for record in DefaultRecordBatch(header + data)]


def by_columns(data: bytes, count: int) -> list[tuple]:
    """What we read there; CorruptRecordError."""
    found = records_of([Body(0, count - 1, 0, data, places_of(data, count))], UNTIL)
    return list(zip(found.offsets, found.keys, found.values, strict=True))


def has_long_attributes(data: bytes, count: int) -> bool:
    """Say whether the attributes of some record have the bit that makes a number go on."""
    behind_length = (
        next(at for at in range(place, len(data)) if data[at] < 0x80) + 1 for place in places_of(data, count)
    )
    return any(data[at] >= 0x80 for at in behind_length)


@given(batches, st.data())
def test_records_are_those_of_their_batches(found, draw):
    """Offsets, keys and values of several batches, from the offset wanted in each to the end wanted of all."""
    bodies, expected, base = [], [], 0
    for batch in found:
        data = data_of(batch)
        first = base + draw.draw(st.integers(0, len(batch)), label="first")
        bodies.append(Body(first, base + len(batch) - 1, base, data, places_of(data, len(batch))))
        expected += [(base + at, key, value) for at, (_, key, value, _) in enumerate(batch) if base + at >= first]
        base += len(batch) + draw.draw(st.integers(0, 3), label="hole")
    until = draw.draw(st.integers(0, base), label="until")
    columns = records_of(bodies, until)
    assert list(zip(columns.offsets, columns.keys, columns.values, strict=True)) == [
        record for record in expected if record[0] < until
    ]


@given(st.lists(records, min_size=1, max_size=4), st.data())
@example([(0, None, None, [])], None)
def test_damaged_records_are_never_taken_for_others(batch, draw):
    """What kafka-python refuses is refused; what is taken is what it takes."""
    data, count = bytearray(data_of(batch)), len(batch)
    if draw is not None:
        for at in draw.draw(st.lists(st.integers(0, min(len(data), 90) - 1), min_size=1, max_size=3), label="places"):
            data[at] = draw.draw(st.integers(0, 255), label="byte")
        count += draw.draw(st.sampled_from([0, 0, 0, -1, 1]), label="count")
    try:
        expected = one_by_one(bytes(data), count)
    except (CorruptRecordError, UnicodeDecodeError):
        expected = None
    try:
        found = by_columns(bytes(data), count)
    except (CorruptRecordError, MalformedBatchError):
        return
    if expected is None:
        # The name of a header is not read here, and kafka-python takes the one byte of attributes for a number.
        with pytest.raises(CorruptRecordError) as refused:
            one_by_one(bytes(data), count)
        assert "utf-8" in str(refused.value) or has_long_attributes(bytes(data), count)
    else:
        assert found == expected or has_long_attributes(bytes(data), count)


def test_a_malformed_record_names_its_batch():
    """The batch that holds it is named by index and offset, though others come before and after it."""
    good = data_of([(0, b"k", b"v", [])] * 3)
    # A key of -2 bytes: the length of the record is right.
    bad = good.replace(b"\x02k", b"\x03k", 1)
    bodies = [Body(base, base + 2, base, data, places_of(data, 3)) for base, data in ((0, good), (3, bad), (6, good))]
    with pytest.raises(MalformedBatchError, match="offset 3") as raised:
        records_of(bodies, UNTIL)
    assert (raised.value.index, raised.value.offset) == (1, 3)


@pytest.mark.parametrize("delta", [b"\x01", b"\x00", b"\x0e"], ids=["negative", "twice", "jumps"])
def test_a_record_stands_at_its_own_offset(delta):
    """An offset before the batch, one that another record has, and one that jumps over some."""
    data = data_of([(0, b"k", b"v", [])] * 3)
    # Length, attributes, time, offset: those of the second record.
    second = b"\x00\x00\x02\x02k"
    assert data.count(second) == 1
    with pytest.raises(MalformedBatchError):
        by_columns(data.replace(second, b"\x00\x00" + delta + b"\x02k"), 3)


@pytest.mark.parametrize("length", [b"\x80" * 11 + b"\x00", b"\xff" * 9 + b"\x01", b"\x01", b""])
def test_a_length_that_is_none_is_refused(length):
    """A length without an end, one beyond all memory, a negative one, and none at all."""
    with pytest.raises((CorruptRecordError, MalformedBatchError)):
        by_columns(length, 1)

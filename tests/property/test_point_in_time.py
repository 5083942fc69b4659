"""Balances as of any moment, on either clock or both, are those of a plain loop over the events that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import pytest
from archives import archive_at, archived_topic, commits_of
from histories import NOW, START, examples, histories
from hypothesis import given
from hypothesis import strategies as st
from ledgers import append
from oracle import balances_as_of
from samples import store_rows
from topic_asked import ask, held, publish_to
from topic_memory import PARTITIONS

from consumers.archiver import archive_store
from ledger import Store
from replay import Balances, balances
from replay.archive.answers import balances_from_archive
from replay.archive.compaction import compact
from replay.certificate import Position
from schemas import Event

SUMS = ("balance", "frozen", "available", "pending_credit", "pending_debit")
COLUMNS = ("account_id", *SUMS, "status", "version", "last_effective_at")
MICROSECOND = timedelta(microseconds=1)
#: Few times, so that many events share one, some a microsecond apart.
TIMES = [START + timedelta(hours=hours) + shift for hours in range(4) for shift in (-MICROSECOND, timedelta())]

Moments = tuple[datetime | None, datetime | None]


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Event], list[Moments]]:
    """A history whose events happened and were recorded in any order, and moments on both clocks, at events or not."""
    events = [
        msgspec.structs.replace(
            event, effective_at=draw(st.sampled_from(TIMES)), recorded_at=draw(st.sampled_from(TIMES))
        )
        for event in draw(histories(30))
    ]
    moment = st.one_of(st.none(), st.sampled_from(TIMES), st.sampled_from(TIMES).map(lambda at: at + MICROSECOND))
    return events, draw(st.lists(st.tuples(moment, moment), min_size=1, max_size=4))


@contextmanager
def store_of(events: list[Event]) -> Iterator[Store]:
    """A store with some events, gone afterwards."""
    with TemporaryDirectory() as folder:
        store = Store.at(Path(folder))
        append(store, *events)
        yield store
        store.close()


def is_past(row: dict[str, Any]) -> bool:
    """Whether a sum of a row is past int64."""
    return any(not -(2**63) <= row[name] < 2**63 for name in SUMS)


def check(found: Balances, expected: dict[str, dict[str, Any]]) -> None:
    """Fail unless an answer has every column of every expected row, and parks only whose sums are too large."""
    past = {account_id for account_id, row in expected.items() if is_past(row)}
    assert {parked.account_id: parked.reason for parked in found.certificate.parked} == dict.fromkeys(past, "overflow")
    assert found.verdict == ("INCOMPLETE" if past else "COMPLETE")
    whole = [expected[account_id] for account_id in sorted(expected) if account_id not in past]
    assert found.rows.select(COLUMNS).to_dicts() == [{name: row[name] for name in COLUMNS} for row in whole]


class Asked:
    """A source of some events, asked as `balances` is; `reached` gives its position behind so many of them."""

    def __init__(self, answer: Callable[..., Balances], reached: Callable[[int], Position] = int) -> None:
        self.answer = answer
        self.reached = reached


class Source(NamedTuple):
    """Where events are asked for: the store, or an archive of store or topic, made in `runs` and compacted or not."""

    name: str
    runs: int = 0
    is_compacted: bool = False

    @contextmanager
    def of(self, events: list[Event], cuts: list[int], commit_events: int) -> Iterator[Asked]:
        """Have these events in the source, which is gone afterwards; runs end at the cuts, in this order."""
        ends = [*sorted(cut % (len(events) + 1) for cut in cuts[: self.runs - 1]), len(events)]
        with TemporaryDirectory() as name:
            folder, rows = Path(name), store_rows(events)
            store = Store.at(folder)
            for start, end in pairwise([0, *ends]):
                with store.appending() as connection:
                    store.append_rows(connection, rows[start:end])
                with commits_of(commit_events):
                    if self.name == "archive":
                        archive_store(archive_at(folder), store, now=lambda: NOW)
                    elif self.name == "archive of a topic":
                        archived_topic(archive_at(folder), held(events)[:end], watermark=lambda: NOW)  # type: ignore[arg-type]  # they have what it asks of a record.
                if self.is_compacted:
                    compact(archive_at(folder), file_events=5)
            if self.name == "store":
                yield Asked(partial(balances, store))
            elif self.name == "archive":
                yield Asked(partial(balances_from_archive, archive_at(folder)))
            else:
                yield Asked(partial(balances_from_archive, archive_at(folder)), partial(_offsets, events))
            store.close()


def _offsets(events: list[Event], count: int) -> dict[int, int]:
    places = Counter(record.partition for record in held(events)[:count])
    return {partition: places[partition] for partition in range(PARTITIONS)}


SOURCES = [
    Source("store"),
    Source("archive", 1),
    Source("archive", 1, is_compacted=True),
    Source("archive", 4),
    Source("archive", 4, is_compacted=True),
    Source("archive of a topic", 3),
    Source("archive of a topic", 3, is_compacted=True),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: f"{each.name}, {each.runs} runs, {each.is_compacted}")
@examples(25)
@given(
    question=questions(),
    place=st.integers(0, 30),
    cuts=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    commit_events=st.integers(1, 12),
)
def test_a_source_as_of_any_moment_is_the_plain_loop(source, question, place, cuts, commit_events):
    """Whatever was recorded late or dated back, at the end and at a position, for all accounts, some and one."""
    events, moments = question
    with source.of(events, cuts, commit_events) as asked:
        count = min(place, len(events))
        for as_of, recorded_as_of in moments:
            moment = {"as_of": as_of, "recorded_as_of": recorded_as_of, "now": NOW}
            for some, at in ((events, None), (events[:count], asked.reached(count))):
                expected = balances_as_of(some, as_of, recorded_as_of)
                check(asked.answer(at=at, **moment), expected)
                ids = sorted({event.account_id for event in some})
                for account_ids in (*([each] for each in ids), ids[:2], ids[1:]):
                    if account_ids:
                        only = {each: expected[each] for each in account_ids if each in expected}
                        check(asked.answer(account_ids, at=at, **moment), only)


@examples(40)
@given(question=questions(), is_split=st.booleans(), is_shuffled=st.booleans(), data=st.data())
def test_a_topic_as_of_any_moment_is_the_store(question, is_split, is_shuffled, data):
    """The same rows and digest, however the events lie over partitions, also where an account is in several."""
    events, moments = question
    on_topic = held(events, is_split=is_split)
    on_topic = data.draw(st.permutations(on_topic)) if is_shuffled else on_topic
    with store_of(events) as store:
        if events:
            publish_to(store, len(events))
        for as_of, recorded_as_of in moments:
            asked = {"as_of": as_of, "recorded_as_of": recorded_as_of, "now": NOW}
            expected, found = balances(store, **asked), ask(store, on_topic, **asked)
            assert found.certificate.events == expected.certificate.events == len(events)
            if not events:
                # Nothing was published, so there is no watermark and no moment that an answer could be of.
                is_asked = as_of is not None or recorded_as_of is not None
                assert (found.verdict, found.watermark) == ("INCOMPLETE" if is_asked else "COMPLETE", None)
                continue
            assert (found.verdict, found.watermark) == (expected.verdict, NOW)
            assert found.rows.equals(expected.rows)
            assert found.certificate.digest == expected.certificate.digest
            assert found.certificate.as_of == expected.certificate.as_of
            assert found.certificate.recorded_as_of == expected.certificate.recorded_as_of
            check(found, balances_as_of(events, as_of, recorded_as_of))

"""Balances as of any moment, on either clock or both, are those of a plain loop over the events that count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from histories import NOW, START, examples, histories
from hypothesis import given
from hypothesis import strategies as st
from ledgers import append
from oracle import balances_as_of
from topic_asked import ask, held, publish_to

from ledger import Store
from replay import Balances, balances
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


@examples(40)
@given(question=questions(), place=st.integers(0, 30))
def test_the_store_as_of_any_moment_is_the_plain_loop(question, place):
    """Whatever was recorded late or dated back, at the head and at a position, for all accounts and for one."""
    events, moments = question
    with store_of(events) as store:
        for as_of, recorded_as_of in moments:
            asked = {"as_of": as_of, "recorded_as_of": recorded_as_of, "now": NOW}
            expected = balances_as_of(events, as_of, recorded_as_of)
            check(balances(store, **asked), expected)
            at = min(place, len(events))
            check(balances(store, at=at, **asked), balances_as_of(events[:at], as_of, recorded_as_of))
            for account_id in {event.account_id for event in events}:
                only = {account_id: expected[account_id]} if account_id in expected else {}
                check(balances(store, [account_id], **asked), only)


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

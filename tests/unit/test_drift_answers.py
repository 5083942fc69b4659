"""What a watch answers with --explain: each finding as of the position that it was made at, however the log goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from ledgers import NOW, append, change_row
from samples import opened, recorded, store_rows

from console.drift_answers import EXPLAINED_MAX, explained, watched_answer
from console.drift_words import explanation_lines, explanations
from consumers import project
from consumers.shadow import StoreShadow
from consumers.watching import Watched
from ledger import Store, findings, read_model
from ledger.findings import Difference, Keys, Look
from replay.comparison.own import OwnPair
from replay.comparison.rounds import Rounds
from replay.differences import Drifted
from replay.steps import steps
from replay.store_source import StoreSource
from schemas import format_time

WATCHED = Watched(1, 1, 5, 5, "DRIFT", 0)


#: The last takes away what the two before it gave.
EVENTS = [
    opened("a"),
    *(recorded("a", version, 10**version) for version in range(2, 8)),
    recorded("a", 8, 11_000_000, type="debit"),
]


def go_on(store: Store, *, until: int) -> None:
    """Append the later events up to a version."""
    with store.appending() as connection:
        store.append_rows(connection, store_rows(EVENTS)[5:until])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with an account of five events, credits of growing powers of ten, and its read model."""
    store = Store.at(tmp_path)
    append(store, *EVENTS[:5])
    project(store)
    yield store
    store.close()


def note(store: Store, *found: Drifted, position: object) -> None:
    """Note differences as found at a position."""
    looked = [
        Difference(
            each.account_id,
            each.field,
            each.cause,
            str(each.live),
            str(each.replayed),
            str(each.difference),
            each.first_event,
            each.evidence,
        )
        for each in found
    ]
    with store.writing() as connection:
        look = Look(looked, [], {}, msgspec.json.encode(position).decode())
        findings.found(connection, "read_model", look, among=Keys(None, None), now=format_time(NOW))


def notes_of(store: Store) -> list[str]:
    """The lines of the answer."""
    return list(watched_answer(store, "read_model", WATCHED, live="read_model", explain=True).notes)


def find_drift(store: Store, *, more: int) -> Drifted:
    """Add so much to the balance of the account, and return what a comparison finds."""
    with store.snapshot() as connection:
        (balance,) = read_model.rows(connection, 1)["balance"]
    change_row(store, "a", balance=balance + more)
    shadow = StoreShadow(store)
    while shadow.step().lag_events:
        pass
    shadow.close()
    chunk = Rounds(store, OwnPair(store)).step()
    assert chunk is not None
    (found,) = chunk.drifted
    return found


@pytest.mark.parametrize("is_topic", [False, True], ids=["store", "topic"])
def test_a_finding_is_explained_as_of_its_position(store: Store, is_topic: bool) -> None:
    """Events that came after the finding change none of its numbers; of a topic the values decide."""
    found = find_drift(store, more=1_000)
    assert found.cause == "applied_twice"
    note(store, found, position={"0": 5} if is_topic else 5)
    before = notes_of(store)
    go_on(store, until=7 if is_topic else 8)
    after = notes_of(store)
    assert after == before
    assert any(line.split() == ["with", "it", "twice", "balance", "112,100"] for line in after), after
    assert any(line.split() == ["each", "applied", "once", "balance", "111,100"] for line in after), after


def test_only_the_first_accounts_are_explained_and_the_rest_counted(store: Store) -> None:
    """The document explains as many accounts as the text does, and says how many more differ."""
    found = [
        Drifted(
            account_id=f"x{number:02}",
            field="balance",
            live=1,
            replayed=2,
            difference=-1,
            cause="foreign_write",
            first_event=None,
            evidence="so",
        )
        for number in range(EXPLAINED_MAX + 3)
    ]
    note(store, *found, position=5)
    answer = watched_answer(store, "read_model", WATCHED, live="read_model", explain=True)
    told = [each.account_id for each in answer.fields["explained"]]
    assert (told, answer.fields["unexplained_count"]) == ([f"x{number:02}" for number in range(EXPLAINED_MAX)], 3)
    assert answer.notes[-1] == "... and 3 accounts more that differ"


def test_what_was_applied_twice_never_stopped(store: Store) -> None:
    """Where the numbers do not fit, as in the steps of another position, no number that contradicts live is told."""
    entry = find_drift(store, more=1_000)
    go_on(store, until=7)
    lines = explained(store, [entry], until=None, is_own=True).lines
    assert not [line for line in lines if "stopped before it" in line]
    other = msgspec.structs.replace(entry, live=5)
    with StoreSource.snapshot(store) as source:
        found = explanations([other], steps(source, ["a"], until=5), is_own=True)
    lines = explanation_lines([other], found)
    assert not [line for line in lines if "stopped before" in line or "with it twice" in line]


def test_a_missed_first_event_has_nothing_before_it(store: Store) -> None:
    """An account whose blamed event is its first is explained without what it was before."""
    entry = Drifted(
        account_id="a",
        field="balance",
        live=5,
        replayed=111_100,
        difference=-111_095,
        cause="missed_event",
        first_event="a:1",
        evidence="so",
    )
    with StoreSource.snapshot(store) as source:
        event_ids = steps(source, ["a"], until=5).frame["event_id"].to_list()
        entry = msgspec.structs.replace(entry, first_event=event_ids[0])
        found = explanations([entry], steps(source, ["a"], until=5), is_own=True)
    lines = explanation_lines([entry], found)
    assert not [line for line in lines if line.startswith(("  stopped before", "  without it"))]


def test_an_account_that_the_store_does_not_have_is_told_without_events(store: Store) -> None:
    """Where the log is a topic whose events are not in the store, the differences and the evidence are told alone."""
    entry = Drifted(
        account_id="elsewhere",
        field="balance",
        live=1,
        replayed=2,
        difference=-1,
        cause="missed_event",
        first_event="elsewhere:2",
        evidence="it is what is left without it",
    )
    note(store, entry, position={"0": 5, "3": 9})
    lines = notes_of(store)
    assert any("it is what is left without it" in line for line in lines)
    assert not [line for line in lines if line.startswith("  events")]

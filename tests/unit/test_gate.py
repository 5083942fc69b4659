"""The sequence gate: each account's events once and in order, and every account that stops is named with the reason."""

from __future__ import annotations

import polars as pl
import pytest
from streams import Row, at, broken, ends_of, events_of, fed

from ledger import GENESIS
from replay import Gate


def versions(found, account_id: str) -> list[int]:
    """Versions of one account that were let through, in the order they were."""
    return [version for account, version, _ in found.admitted if account == account_id]


def test_a_stream_in_order_passes_whole():
    """Nothing is held back where nothing is missing, in one batch or in several."""
    rows = [*at("a", 1, 2), *at("b", 1), *at("a", 3)]
    for cuts in ((), (1,), (1, 2, 3)):
        found = fed(rows, cuts, ends=ends_of({"a": 3, "b": 1}))
        assert [row[:2] for row in found.admitted] == [("a", 1), ("a", 2), ("b", 1), ("a", 3)]
        assert found.parked == {}
        assert found.gate.repeats.is_empty()


def test_an_empty_batch_is_nothing():
    """A batch without events changes nothing."""
    gate = Gate()
    events, _ = events_of([])
    assert gate.admit(events, []).is_empty()
    assert gate.parked(ends_of({}), lambda keys: keys) == {}


@pytest.mark.parametrize("cuts", [(), (2,), (3,), (1, 2, 3, 4)], ids=str)
def test_repeats_are_dropped_and_counted(cuts):
    """A repeat passes no second time, whether its first copy is in the same batch or in an earlier one."""
    found = fed([*at("a", 1, 2), *at("a", 2, 1), *at("a", 3)], cuts)
    assert found.admitted == [("a", 1, 1), ("a", 2, 2), ("a", 3, 5)]
    assert sorted(found.gate.repeats.rows()) == [("a", 1), ("a", 2)]
    assert found.parked == {}


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2, 3, 4)], ids=str)
def test_a_gap_that_is_filled_later_parks_nothing(cuts):
    """What waited behind a gap passes in version order once the gap is filled."""
    found = fed([*at("a", 1, 4, 3), *at("b", 1), *at("a", 2)], cuts)
    assert sorted(row[:2] for row in found.admitted) == [("a", 1), ("a", 2), ("a", 3), ("a", 4), ("b", 1)]
    assert found.parked == {}
    assert found.gate.last.select("account_id", "version").sort("account_id").rows() == [("a", 4), ("b", 1)]


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3)], ids=str)
def test_a_gap_that_is_never_filled_parks_its_account_alone(cuts):
    """The first missing version is named with the place and number of what waits; others pass."""
    found = fed([*at("a", 1), *at("b", 1, 2), *at("a", 4, 5)], cuts)
    assert versions(found, "a") == [1]
    assert versions(found, "b") == [1, 2]
    assert set(found.parked) == {"a"}
    parked = found.parked["a"]
    assert (parked.reason, parked.version, parked.position) == ("version_gap", 2, 4)
    assert parked.details == "versions 2 to 3 are missing; 2 later events wait"


def test_a_stream_without_its_beginning_is_parked_at_version_one():
    """An account whose first event is missing is parked from its beginning."""
    found = fed(at("a", 2, 3))
    assert found.admitted == []
    assert (found.parked["a"].reason, found.parked["a"].version) == ("version_gap", 1)
    assert found.parked["a"].details == "version 1 is missing; 2 later events wait"


@pytest.mark.parametrize("cuts", [(), (1, 2)], ids=str)
@pytest.mark.parametrize("poisoned", [1, 2, 3], ids=["first", "middle", "last"])
def test_an_event_that_cannot_be_read_parks_its_account(poisoned, cuts):
    """What comes before a poison event passes, what comes after it waits, and its place is named."""
    rows = [broken("a", version) if version == poisoned else Row("a", version) for version in (1, 2, 3)]
    found = fed([*rows, *at("b", 1)], cuts, ends=ends_of({"a": 3, "b": 1}))
    assert versions(found, "a") == list(range(1, poisoned))
    assert versions(found, "b") == [1]
    assert set(found.parked) == {"a"}
    parked = found.parked["a"]
    assert (parked.reason, parked.version, parked.position) == ("poison_event", poisoned, poisoned)
    assert "unknown event" in parked.details


@pytest.mark.parametrize("cuts", [(), (2,), (3,), (1, 2, 3)], ids=str)
def test_a_healed_copy_of_a_poison_event_is_taken(cuts):
    """A source that gives the event again, whole, parks nothing; the poison is still counted."""
    found = fed([*at("a", 1), broken("a", 2), *at("a", 3, 2)], cuts)
    assert sorted(versions(found, "a")) == [1, 2, 3]
    assert found.parked == {}
    assert [poison.position for poison in found.gate.poison] == [2]


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2, 3)], ids=str)
def test_a_healed_copy_waits_like_any_other_event(cuts):
    """A whole copy that comes while an earlier version is still missing is not lost with its poison."""
    found = fed([*at("a", 1), broken("a", 3), *at("a", 3), *at("a", 2)], cuts)
    assert sorted(versions(found, "a")) == [1, 2, 3]
    assert found.parked == {}


@pytest.mark.parametrize("cuts", [(), (2,)], ids=str)
def test_a_repeat_with_other_content_parks_its_account(cuts):
    """Two events of one version that differ leave it open which is true, so the account is parked."""
    found = fed([*at("a", 1, 2), *at("a", 2, amount=11), *at("b", 1, 1)], cuts)
    assert set(found.parked) == {"a"}
    assert (found.parked["a"].reason, found.parked["a"].version) == ("conflicting_repeat", 2)
    assert "2 different events" in found.parked["a"].details


@pytest.mark.parametrize("cuts", [(), (1, 2)], ids=str)
@pytest.mark.parametrize("version", [1, 2, 3], ids=["first", "middle", "last"])
def test_a_broken_hash_chain_parks_its_account(version, cuts):
    """Bytes that are not those of the chain stop the account at the first of them, even at its end."""
    rows = [Row("a", number, is_broken=number == version) for number in (1, 2, 3)]
    found = fed([*rows, *at("b", 1, 2)], cuts, chained=True)
    assert versions(found, "a") == list(range(1, version))
    assert versions(found, "b") == [1, 2]
    assert set(found.parked) == {"a"}
    parked = found.parked["a"]
    assert (parked.reason, parked.version, parked.position) == ("poison_event", version, version)
    assert "hash chain" in parked.details


def test_a_chain_goes_on_from_what_was_let_through_before():
    """The first event of a later batch is checked against the last one of the batch before."""
    found = fed(at("a", 1, 2, 3), (1, 2), chained=True, ends=ends_of({"a": 3}))
    assert versions(found, "a") == [1, 2, 3]
    assert found.parked == {}
    events, _ = events_of(at("a", 1, 2, 3), chained=True)
    assert found.gate.last["chain"].to_list() == [events["chain"][2]]


@pytest.mark.parametrize(
    ("ends", "account_id", "version", "said"),
    [
        ({"a": 5, "b": 1}, "a", 4, "ends at version 3, its head says 5: the last events are lost"),
        ({"a": 3, "b": 1, "c": 2}, "c", 1, "the whole stream is lost: its head says 2 events"),
        ({"a": 3}, "b", 1, "no head"),
        ({"a": 2, "b": 1}, "a", 3, "its head says only 2"),
    ],
    ids=["lost tail", "lost account", "no head", "head behind"],
)
def test_an_account_that_does_not_end_at_its_head_is_parked(ends, account_id, version, said):
    """Each way in which an end can be wrong names the account and the version from which nothing is vouched for."""
    found = fed([*at("a", 1, 2, 3), *at("b", 1)], ends=ends_of(ends))
    assert set(found.parked) == {account_id}
    parked = found.parked[account_id]
    assert (parked.reason, parked.version) == ("head_mismatch", version)
    assert said in parked.details


def test_an_end_with_another_chain_is_parked():
    """An account whose last event is not the one that its head was moved for is parked at that version."""
    ends = ends_of({"a": 2}, {"a": GENESIS})
    found = fed(at("a", 1, 2), chained=True, ends=ends)
    assert (found.parked["a"].reason, found.parked["a"].version) == ("head_mismatch", 2)
    assert "is not the head's" in found.parked["a"].details


def test_a_source_that_knows_no_ends_parks_nothing_for_them():
    """Where a source cannot know the ends, they are not judged."""
    assert fed(at("a", 1, 2), ends=None).parked == {}


def test_an_account_is_parked_for_the_first_reason_that_stops_it():
    """Of a poison event and the gap that it leaves, the poison event is named."""
    found = fed([*at("a", 1), broken("a", 2), *at("a", 3)], ends=ends_of({"a": 9}))
    assert found.parked["a"].reason == "poison_event"


def test_what_waits_past_the_bound_is_let_go_and_stays_parked(monkeypatch):
    """Events let go are lost to this run, so the account is parked though its gap is filled, and others pass."""
    monkeypatch.setattr("replay.gate.WAITING_EVENTS_MAX", 3)
    rows = [*at("a", 1, 3, 4, 5, 6, 7), *at("b", 1), *at("a", 2), *at("b", 2)]
    found = fed(rows, (6, 7))
    assert versions(found, "b") == [1, 2]
    assert set(found.parked) == {"a"}
    assert found.parked["a"].reason == "version_gap"
    # A whole prefix of the stream is all that may have been let through.
    assert sorted(versions(found, "a")) == list(range(1, len(versions(found, "a")) + 1))
    assert found.gate.waiting is None or found.gate.waiting.height <= 3


def test_the_text_of_what_was_let_go_says_that_there_was_more(monkeypatch):
    """The number of waiting events is told as a lower bound once some were let go."""
    monkeypatch.setattr("replay.gate.WAITING_EVENTS_MAX", 1)
    found = fed(at("a", 1, 3, 4, 5))
    assert found.parked["a"].version == 2
    assert "more than 1 later events wait" in found.parked["a"].details


def test_what_is_let_through_keeps_the_order_of_the_source():
    """Accounts stay interleaved as they came."""
    rows = [*at("b", 1), *at("a", 1), *at("b", 2), *at("a", 2), *at("a", 2)]
    found = fed(rows)
    assert found.admitted == [("b", 1, 1), ("a", 1, 2), ("b", 2, 3), ("a", 2, 4)]
    assert found.gate.repeats.select(pl.len()).item() == 1

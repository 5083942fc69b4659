"""Damage done behind the ledger's back: each kind is named with its account, and every other account is served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ledgers import (
    NOW,
    append,
    change_event,
    lose_event,
    lose_head,
    positions,
    put_back,
    replayed_rows,
    take_event,
    write_history,
)
from samples import account_stream, recorded
from sqlalchemy import insert, select, text, update

from consumers import project
from ledger import GENESIS, Store, chain
from ledger.tables import EVENTS, HEADS
from replay import balances, digest, drift, history, rebuild, verify
from schemas import AMOUNT_MAX, encode
from schemas.errors import LedgerReplayError

#: The account that is damaged; it has eight events, as every other one.
HURT = "acc-2"
LAST = 8


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a ledger with a history of four accounts, to be copied."""
    store = Store.at(tmp_path_factory.mktemp("ready"))
    write_history(store)
    store.close()
    return Path(str(store.url.database))


@pytest.fixture
def store(tmp_path: Path, ready: Path) -> Iterator[Store]:
    """A store with a history of four accounts."""
    shutil.copy(ready, tmp_path)
    store = Store.at(tmp_path)
    yield store
    store.close()


def flipped(store: Store, version: int, place: Callable[[bytes], int], bit: int = 1) -> None:
    """Flip a bit of one stored event at the place that its bytes decide."""
    with store.snapshot() as connection:
        statement = select(EVENTS.c.state).where(EVENTS.c.originator_id == HURT, EVENTS.c.originator_version == version)
        state = bytearray(connection.execute(statement).scalar_one())
    state[place(bytes(state))] ^= bit
    change_event(store, HURT, version, state=bytes(state))


def raw_update(store: Store, assignment: str, version: int) -> None:
    """Change a stored event by hand, with what no typed statement would take."""
    with store.writing() as connection:
        connection.execute(
            text(
                f"UPDATE stored_events SET {assignment} WHERE originator_id = :hurt AND originator_version = :version"
            ),
            {"hurt": HURT, "version": version},
        )


def head_set(store: Store, **columns: Any) -> None:
    """Write over the head of the account."""
    with store.writing() as connection:
        connection.execute(update(HEADS).where(HEADS.c.account_id == HURT).values(columns))


def added_behind(store: Store) -> None:
    """Append an event with the right version and chain, but without moving the head."""
    with store.appending() as connection:
        statement = select(EVENTS.c.chain).where(EVENTS.c.originator_id == HURT, EVENTS.c.originator_version == LAST)
        state = encode(recorded(HURT, LAST + 1))
        link = chain(connection.execute(statement).scalar_one(), state)
        row = {"originator_id": HURT, "originator_version": LAST + 1, "topic": "transaction.recorded"}
        connection.execute(insert(EVENTS).values(**row, state=state, chain=link))


class Damage(NamedTuple):
    """What is done to the store, and what must be said: reason, version, the version whose position is told, words."""

    does: Callable[[Store], None]
    reason: str
    version: int
    at: int | None
    said: str


DAMAGES = {
    "hole": Damage(lambda s: lose_event(s, HURT, 4), "version_gap", 4, 5, "version 4 is missing; 4 later events wait"),
    "holes": Damage(lambda s: lose_event(s, HURT, 2, 3, 6), "version_gap", 2, 4, "versions 2 to 3 are missing"),
    "first event lost": Damage(lambda s: lose_event(s, HURT, 1), "version_gap", 1, 2, "version 1 is missing"),
    "last event lost": Damage(lambda s: lose_event(s, HURT, LAST), "head_mismatch", LAST, None, "last events are lost"),
    "account lost": Damage(lambda s: lose_event(s, HURT), "head_mismatch", 1, None, "the whole stream is lost"),
    "digit of an amount": Damage(
        lambda s: flipped(s, 2, lambda state: state.index(b'"amount":') + 10), "poison_event", 2, 2, "hash chain"
    ),
    "digit at the end": Damage(
        lambda s: flipped(s, LAST, lambda state: state.index(b'"amount":') + 9),
        "poison_event",
        LAST,
        LAST,
        "hash chain",
    ),
    "structure": Damage(lambda s: flipped(s, 3, lambda _: 0), "poison_event", 3, 3, ""),
    "not text": Damage(
        lambda s: flipped(s, 3, lambda state: state.index(b"acc-2"), bit=0x80), "poison_event", 3, 3, ""
    ),
    "truncated": Damage(lambda s: raw_update(s, "state = substr(state, 1, 40)", 3), "poison_event", 3, 3, ""),
    "empty": Damage(lambda s: change_event(s, HURT, 3, state=b""), "poison_event", 3, 3, ""),
    "json null": Damage(lambda s: change_event(s, HURT, 3, state=b"null"), "poison_event", 3, 3, "not a JSON object"),
    "two lines": Damage(lambda s: change_event(s, HURT, 3, state=b"{}\n{}"), "poison_event", 3, 3, ""),
    "a newline": Damage(lambda s: change_event(s, HURT, 3, state=b"\n"), "poison_event", 3, 3, ""),
    "text in the place of bytes": Damage(
        lambda s: raw_update(s, "state = 'nothing of ours'", 3), "poison_event", 3, 3, ""
    ),
    "the event of another": Damage(
        lambda s: change_event(s, HURT, 3, state=encode(recorded("acc-1", 3))), "poison_event", 3, 3, "acc-1"
    ),
    "unknown tag": Damage(
        lambda s: raw_update(s, "state = CAST(replace(CAST(state AS TEXT), 'transaction.rec', 'x.rec') AS BLOB)", 2),
        "poison_event",
        2,
        2,
        "unknown event",
    ),
    "chain": Damage(lambda s: change_event(s, HURT, 5, chain=GENESIS), "poison_event", 5, 5, "hash chain"),
    "chain is empty": Damage(lambda s: change_event(s, HURT, 5, chain=b""), "poison_event", 5, 5, "hash chain"),
    "version": Damage(
        lambda s: change_event(s, HURT, LAST, originator_version=19), "poison_event", 19, 19, "otherwise"
    ),
    "head lost": Damage(lambda s: lose_head(s, HURT), "head_mismatch", 1, None, "no head"),
    "head behind": Damage(lambda s: head_set(s, version=5), "head_mismatch", 6, None, "its head says only 5"),
    "head ahead": Damage(lambda s: head_set(s, version=9), "head_mismatch", LAST + 1, None, "its head says 9"),
    "head of another chain": Damage(
        lambda s: head_set(s, chain=GENESIS), "head_mismatch", LAST, None, "is not the head's"
    ),
    "event added behind its back": Damage(added_behind, "head_mismatch", LAST + 1, None, "says only 8"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_every_other_account_is_served(store, name):
    """Each kind of damage parks its account with reason, version and position; the others keep their balances."""
    damage = DAMAGES[name]
    before = replayed_rows(store)
    places = positions(store, HURT)
    damage.does(store)
    answer = balances(store, now=NOW)
    assert answer.verdict == "INCOMPLETE"
    assert {row["account_id"]: row for row in answer.rows.to_dicts()} == {
        account_id: row for account_id, row in before.items() if account_id != HURT
    }
    (parked,) = answer.certificate.parked
    assert (parked.account_id, parked.reason, parked.version) == (HURT, damage.reason, damage.version)
    places |= positions(store, HURT)
    assert parked.position == (None if damage.at is None else places[damage.at])
    assert damage.said in parked.details
    assert answer.certificate.digest == digest(answer.rows)
    assert answer.certificate.accounts == 4
    # The same is said of the account alone, by verify, and by a rebuild, which is not promoted.
    assert balances(store, [HURT], now=NOW).certificate.parked == [parked]
    found = verify(store, now=NOW, account_id=HURT)
    assert found.verdict == "INCOMPLETE"
    assert found.findings.select("code", "position").rows() == [(damage.reason, parked.position)]
    built = rebuild(store, promote=True, now=NOW)
    assert (built.verdict, built.promoted, built.certificate.parked) == ("INCOMPLETE", False, [parked])
    assert built.certificate.digest == answer.certificate.digest


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_account_has_the_history_up_to_the_damage(store, name):
    """History shows what is whole in front of the damage and says that it is not all."""
    whole = history(store, HURT).rows
    DAMAGES[name].does(store)
    if name == "account lost":
        assert history(store, HURT).rows.is_empty()
        return
    found = history(store, HURT)
    assert found.verdict == "INCOMPLETE"
    reached = found.rows.height
    assert found.rows.head(LAST).equals(whole.head(reached))
    if DAMAGES[name].reason != "head_mismatch" and name != "version":
        assert reached == DAMAGES[name].version - 1


@pytest.mark.parametrize("name", DAMAGES)
def test_a_comparison_with_damaged_events_is_never_equal(store, name):
    """A live row of an account that the log cannot vouch for is uncompared, and nothing is called drift for it."""
    project(store)
    DAMAGES[name].does(store)
    found = drift(store)
    if name == "event added behind its back":
        # The read model is compared at its own position, where the account was whole but the head is of later.
        assert found.verdict in ("EQUAL", "INCOMPARABLE")
        return
    assert found.verdict == "INCOMPARABLE"
    assert found.uncompared == [HURT]
    assert found.accounts == []


def test_an_event_given_to_another_account_is_missed_in_its_own(store):
    """A changed owner leaves a hole in one account and a poison event in the other, each named."""
    change_event(store, HURT, 4, originator_id="acc-9")
    answer = balances(store, now=NOW)
    named = {parked.account_id: (parked.reason, parked.version) for parked in answer.certificate.parked}
    assert named == {HURT: ("version_gap", 4), "acc-9": ("poison_event", 4)}
    assert answer.rows["account_id"].to_list() == ["acc-1", "acc-3", "acc-4"]


def test_all_heads_lost_leaves_nothing_to_vouch_for(store):
    """Without heads nothing is served as whole, and every account is named."""
    lose_head(store)
    answer = balances(store, now=NOW)
    assert answer.verdict == "INCOMPLETE"
    assert [parked.account_id for parked in answer.certificate.parked] == ["acc-1", "acc-2", "acc-3", "acc-4"]
    assert {parked.reason for parked in answer.certificate.parked} == {"head_mismatch"}
    assert answer.rows.is_empty()


def test_every_event_lost_is_every_account_lost(store):
    """An emptied store is not an empty ledger: the heads still name every account."""
    for account_id in ("acc-1", "acc-2", "acc-3", "acc-4"):
        lose_event(store, account_id)
    answer = balances(store, now=NOW)
    assert answer.verdict == "INCOMPLETE"
    assert answer.certificate.accounts == 4
    assert {parked.details.split(":")[0] for parked in answer.certificate.parked} == {"the whole stream is lost"}


def test_an_emptied_store_is_not_equal_to_what_was_projected(store):
    """A read model past the end of its log cannot be compared, and the lost accounts are named."""
    project(store)
    for account_id in ("acc-1", "acc-2", "acc-3", "acc-4"):
        lose_event(store, account_id)
    found = drift(store)
    assert found.verdict == "INCOMPARABLE"
    assert found.uncompared == ["acc-1", "acc-2", "acc-3", "acc-4"]


@pytest.mark.parametrize("column", ["balance", "frozen", "pending_credit", "pending_debit", "available"])
def test_a_sum_past_int64_is_named_and_never_wraps(store, column):
    """An account whose sums leave int64 is parked by name with the exact sum, whatever the column."""
    before = replayed_rows(store)
    fields = {
        "balance": {"type": "credit", "to_status": "completed"},
        "frozen": {"type": "debit", "to_status": "frozen"},
        "pending_credit": {"type": "credit", "to_status": "pending"},
        "pending_debit": {"type": "debit", "to_status": "pending"},
    }
    first = fields["frozen" if column == "available" else column]
    then = {"type": "debit", "to_status": "completed"} if column == "available" else first
    append(
        store,
        recorded("big", 1, AMOUNT_MAX, transaction_id="t1", **first),
        recorded("big", 2, 2, transaction_id="t2", **then),
        *account_stream("small", 2),
    )
    answer = balances(store, now=NOW)
    (parked,) = answer.certificate.parked
    assert (parked.account_id, parked.reason) == ("big", "overflow")
    # A hold past int64 takes the available points past it too, and that column is named first.
    told = "available" if column in ("balance", "frozen") else column
    total = -(2**63) - 1 if column in ("frozen", "available") else 2**63 + 1
    assert parked.details == f"{told} {total} is past int64"
    assert parked.version == 2
    assert replayed_rows(store) == before | {"small": replayed_rows(store)["small"]}
    assert answer.verdict == "INCOMPLETE"
    projected = project(store)
    assert (projected.verdict, projected.parked) == ("INCOMPLETE", ["big"])


def test_sums_that_come_back_into_int64_are_fine(store):
    """Only where a sum ends counts, not where it was on the way."""
    append(
        store,
        recorded("big", 1, AMOUNT_MAX),
        recorded("big", 2, 5),
        recorded("big", 3, 5, type="debit"),
    )
    answer = balances(store, now=NOW)
    assert answer.verdict == "COMPLETE"
    assert replayed_rows(store)["big"]["balance"] == AMOUNT_MAX
    project(store, batch_events=1)
    assert drift(store).verdict == "EQUAL"


def test_an_earlier_position_is_complete_although_the_heads_are_of_later(store):
    """At any position in the middle every account is whole, since it goes on after it or is at its head."""
    head = max(positions(store, "acc-1").values())
    found = [balances(store, at=at, now=NOW) for at in range(head + 1)]
    assert {answer.verdict for answer in found} == {"COMPLETE"}
    assert [answer.certificate.events for answer in found[:10]] == list(range(10))
    assert found[-1].rows.equals(balances(store, now=NOW).rows)


def test_events_lost_before_an_earlier_position_are_found_there(store):
    """The end of an account at a position is known from its first event after it, so a loss just before shows."""
    places = positions(store, HURT)
    lose_event(store, HURT, 4)
    assert balances(store, at=places[2], now=NOW).verdict == "COMPLETE"
    found = balances(store, at=places[5] - 1, now=NOW)
    assert [(p.account_id, p.reason, p.version) for p in found.certificate.parked] == [(HURT, "head_mismatch", 4)]


def test_a_position_that_is_not_there_is_refused(store):
    """A position past the head, or below zero, is an error and no empty answer."""
    for at in (-1, 10_000):
        with pytest.raises(LedgerReplayError, match="is not in the store"):
            balances(store, at=at)


def test_damage_of_many_kinds_at_once_is_named_account_by_account(store):
    """Each damaged account has its own reason, and the one that is whole is served."""
    lose_event(store, "acc-1", 3)
    change_event(store, "acc-2", 2, state=b"\xff\xfe")
    lose_event(store, "acc-3")
    answer = balances(store, now=NOW)
    named = {parked.account_id: (parked.reason, parked.version) for parked in answer.certificate.parked}
    assert named == {"acc-1": ("version_gap", 3), "acc-2": ("poison_event", 2), "acc-3": ("head_mismatch", 1)}
    assert answer.rows["account_id"].to_list() == ["acc-4"]
    assert [poison.account_id for poison in answer.certificate.poison] == ["acc-2"]


def test_mending_the_damage_makes_it_complete_again(store):
    """An event that is put back at the end of the store fills its hole."""
    before = balances(store, now=NOW)
    row = take_event(store, HURT, 4)
    assert balances(store, now=NOW).verdict == "INCOMPLETE"
    put_back(store, row)
    after = balances(store, now=NOW)
    assert after.verdict == "COMPLETE"
    assert after.certificate.digest == before.certificate.digest


@pytest.mark.parametrize(
    ("column", "value"),
    [("originator_version", "'nine'"), ("originator_id", "CAST(x'ff61' AS TEXT)")],
    ids=["text for a version", "an id that is no UTF-8"],
)
def test_a_column_of_another_type_is_no_traceback(store, column, value):
    """A key that SQLite let through in another type stops its account by name, and every other one is served."""
    before = replayed_rows(store)
    raw_update(store, f"{column} = {value}", 4)
    answer = balances(store, now=NOW)
    assert HURT in [parked.account_id for parked in answer.certificate.parked]
    assert replayed_rows(store) == {key: row for key, row in before.items() if key != HURT}

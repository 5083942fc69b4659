"""What healing takes from a copy of the stream, what it leaves and says so, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from copies import ListCopy, everything, stream_of
from ledgers import NOW, append, change_event, lose_event, lose_head
from samples import account_stream, opened, recorded
from sqlalchemy import delete, update

from ledger import Ledger, Store
from ledger.importing import healing
from ledger.importing.healing import Copy, Records, Unread, heal
from ledger.tables import EVENTS, HEADS
from replay import balances
from schemas import Event, encode
from schemas.errors import RefusedError

LAST = 5


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with two accounts of five events each."""
    is_sqlite = request.param == "sqlite"
    store = Store.at(tmp_path / "ledger") if is_sqlite else Store(request.getfixturevalue("postgres_url"))
    append(store, *account_stream("a", LAST), *account_stream("b", LAST))
    yield store
    store.close()


def _copy(*events: Event | bytes | None, unread: list[Unread] | None = None) -> ListCopy:
    records = [event if event is None or isinstance(event, bytes) else encode(event) for event in events]
    return ListCopy([records], size=3, unread=unread or [])


def test_the_plan_says_what_comes_back_and_why(store: Store):
    """Each event of the plan has its place in the copy and its reason, and a dry run writes nothing."""
    copy = _copy(*account_stream("a", LAST), *account_stream("b", LAST + 1), *account_stream("c", 2))
    lose_event(store, "a", 2, LAST)
    lose_event(store, "b")
    before = everything(store)
    found = heal(store, copy, dry_run=True)
    assert everything(store) == before
    assert found.plan is not None
    rows = found.plan.select("account_id", "version", "transaction_id", "partition", "offset", "why").rows()
    assert rows == [
        ("a", 2, "a-t2", 0, 1, "hole"),
        ("a", 5, "a-t5", 0, 4, "tail"),
        ("b", 1, None, 0, 5, "account"),
        *(("b", version, f"b-t{version}", 0, 4 + version, "account") for version in range(2, LAST + 1)),
        ("b", 6, "b-t6", 0, 10, "new"),
        ("c", 1, None, 0, 11, "new"),
        ("c", 2, "c-t2", 0, 12, "new"),
    ]
    assert (found.restored, found.imported, found.unchanged) == (7, 3, 3)
    assert set(found.plan["event"]) == {"account.opened", "transaction.recorded"}


def test_what_cannot_be_read_is_named_and_the_rest_comes_back(store: Store):
    """Tombstones, other bytes and unread partitions make it INCOMPLETE; every event that is proved is back."""
    stream = account_stream("a", LAST)
    unknown = encode(stream[2]).replace(b"transaction.recorded", b"transaction.unheard")
    gone = Unread(2, 17, "corrupt", "a bad checksum")
    lose_event(store, "a", 4)
    lose_event(store, "b", 2)
    copy = _copy(None, b"{", unknown, stream[3], encode(recorded("a", 2))[:-1] + b',"amount":1}', unread=[gone])
    found = heal(store, copy)
    assert (found.verdict, found.restored, found.imported, found.poison_count) == ("INCOMPLETE", 1, 0, 4)
    assert [(one.account_id, one.version, one.offset) for one in sorted(found.poison, key=lambda one: one.offset)] == [
        ("key", None, 0),
        ("key", None, 1),
        ("a", 3, 2),
        ("a", 2, 4),
    ]
    assert "tombstone" in found.poison[0].reason
    assert found.unread == [gone]


def test_a_part_of_what_was_lost_is_left_and_said(store: Store):
    """Where the copy lacks an event beside a lost one nothing proves it: it stays lost, and others come back."""
    lose_event(store, "a", 2, 3)
    lose_event(store, "b", 4)
    found = heal(store, _copy(recorded("a", 3), recorded("b", 4), recorded("c", 2)))
    assert (found.verdict, found.restored, found.imported) == ("INCOMPLETE", 1, 0)
    reasons = {one.account_id: one.reason for one in found.unproved}
    assert "version 2 of account 'a' is lost too" in reasons["a"]
    assert "would leave a gap: 1 is expected" in reasons["c"]


@pytest.mark.parametrize("lost", [[], [1], [1, 2], [1, 2, 3, 4]])
def test_nothing_is_appended_to_an_account_without_its_head(lost: list[int], store: Store):
    """Stored events without a head are no new account: what the copy has of it is left and said."""
    if lost:
        lose_event(store, "a", *lost)
    lose_head(store, "a")
    before = everything(store)
    found = heal(store, _copy(*account_stream("a", LAST + 1)))
    assert (found.verdict, found.imported, found.restored) == ("INCOMPLETE", 0, 0)
    # The last one names the account itself.
    assert found.unproved_count == len(lost) + 2
    assert "lost its head" in found.unproved[0].reason
    assert everything(store) == before


@pytest.mark.parametrize("lost", [["a"], ["a", "b"]])
@pytest.mark.parametrize("is_behind", [True, False])
def test_a_lost_head_is_put_back(lost: list[str], is_behind: bool, store: Store):
    """A head that is missing or behind stands again where the copy has just the stored events, with repeats or not."""
    before = everything(store)
    with store.writing() as connection:
        some = HEADS.c.account_id.in_(lost)
        connection.execute(
            update(HEADS).where(some).values(version=2, chain=b"?") if is_behind else delete(HEADS).where(some)
        )
    copy = _copy(*account_stream("a", LAST), *account_stream("b", LAST), recorded("a", 2))
    dry = heal(store, copy, dry_run=True)
    assert dry.plan is not None
    columns = ("account_id", "version", "event", "transaction_id", "offset", "why")
    places = {"a": LAST - 1, "b": 2 * LAST - 1}
    rows = [(name, LAST, "transaction.recorded", f"{name}-t{LAST}", places[name], "head") for name in lost]
    assert dry.plan.select(columns).rows() == rows
    found = heal(store, copy)
    assert (found.verdict, found.restored, found.imported, found.unchanged) == ("OK", len(lost), 0, 2 * LAST + 1)
    # PostgreSQL gives the heads in another order now.
    assert set(everything(store)) == set(before)
    assert heal(store, copy).restored == 0


@pytest.mark.parametrize(
    ("copied", "why"),
    [
        ([*account_stream("a", LAST - 1)], "only 4 of its events"),
        ([*account_stream("a", LAST), b"{"], "other records"),
        ([*account_stream("a", LAST), recorded("a", LAST + 1)], "other records"),
        ([], "none of its events"),
    ],
)
def test_a_head_that_nothing_proves_is_named(copied: list[Event | bytes], why: str, store: Store):
    """Where the copy has less or more of an account without a head, the account is named, and others come back."""
    lose_head(store, "a")
    lose_event(store, "b", 2)
    copy = ListCopy([[event if isinstance(event, bytes) else encode(event) for event in copied]], key=b"a")
    found = heal(store, copy)
    assert (found.verdict, found.restored) == ("INCOMPLETE", 0)
    last = found.unproved[-1]
    assert (last.account_id, last.version, last.partition) == ("a", LAST, None)
    assert why in last.reason
    assert heal(store, _copy(recorded("b", 2))).restored == 1


def test_a_head_is_not_proved_by_a_copy_that_was_cut(store: Store):
    """What could not be read may go on after the last event, and a chain that is broken proves nothing either."""
    lose_head(store, "a", "b")
    change_event(store, "b", 3, chain=b"?")
    stream = [*account_stream("a", LAST), *account_stream("b", LAST)]
    cut = heal(store, _copy(*stream, unread=[Unread(0, 9, "corrupt", "a bad checksum")]))
    assert {one.account_id: "to its end" in one.reason for one in cut.unproved} == {"a": True, "b": True}
    whole = heal(store, _copy(*stream, unread=[Unread(1, 9, "deleted", "gone before")]))
    assert (whole.restored, whole.unproved_count, whole.verdict) == (1, 1, "INCOMPLETE")
    assert "through its version 3" in whole.unproved[0].reason


def test_two_contents_of_a_new_version_are_a_conflict(store: Store):
    """Of two contents that the store never had neither is taken, and nothing else either."""
    lose_event(store, "a", 2)
    before = everything(store)
    found = heal(store, _copy(recorded("a", 2), opened("c"), recorded("c", 2, 1), recorded("c", 2, 2)))
    assert (found.verdict, found.restored, found.imported, found.conflicts_count) == ("REFUSED", 0, 0, 2)
    assert {(one.account_id, one.version, one.offset) for one in found.conflicts} == {("c", 2, 2), ("c", 2, 3)}
    assert everything(store) == before


@pytest.mark.parametrize("dry_run", [True, False])
def test_accounts_in_conflict_can_be_left_out_whole(dry_run: bool, store: Store):
    """Asked to skip conflicts, nothing of their accounts comes back, and everything of the others that is proved."""
    append(store, *account_stream("c", 3), *account_stream("d", 3))
    for account_id in "abcd":
        lose_event(store, account_id, 2)
    before = everything(store)
    contrary = [recorded("a", 4, 77), recorded("b", 2, 77), recorded("c", 4, 1), recorded("c", 4, 2)]
    copy = _copy(*contrary, *(recorded(account_id, 2) for account_id in "acd"), recorded("d", 4))
    assert heal(store, copy).verdict == "REFUSED"
    assert everything(store) == before
    found = heal(store, copy, skip_conflicts=True, dry_run=dry_run)
    assert (found.verdict, found.restored, found.imported) == ("INCOMPLETE", 1, 1)
    assert (found.conflicting, found.conflicts_count, len(found.conflicts)) == ({"a", "b", "c"}, 4, 4)
    if found.plan is not None:
        assert found.plan.select("account_id", "version", "why").rows() == [("d", 2, "hole"), ("d", 4, "new")]
    after = [row for row in everything(store) if row not in before and row[1] != 2]
    assert {row[0] if isinstance(row[0], str) else row[1] for row in after} == (set() if dry_run else {"d"})


def test_findings_are_counted_past_what_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A wrong topic has as many conflicts as records: the first are listed, all are counted."""
    monkeypatch.setattr(healing, "LISTED_MAX", 2)
    found = heal(store, _copy(*(recorded("a", version, 77) for version in range(2, LAST + 1))))
    assert (found.verdict, found.conflicts_count, len(found.conflicts)) == ("REFUSED", 4, 2)


def test_a_conflict_says_what_the_chain_proves(store: Store):
    """Other bytes are refused, and it is said where the stored ones are what was appended."""
    change_event(store, "b", 3, state=encode(recorded("b", 3, 99)))
    found = heal(store, _copy(recorded("a", 2, 77), recorded("b", 3, 55)))
    assert (found.verdict, found.conflicts_count) == ("REFUSED", 2)
    reasons = {one.account_id: one.reason for one in found.conflicts}
    assert "proves the stored ones" in reasons["a"]
    assert reasons["b"] == "version 3 of account 'b' is stored with other bytes"


@pytest.mark.parametrize("damage", [b"\x00\xff{", encode(recorded("a", 3, 99)), encode(recorded("a", 3)).upper()])
def test_damaged_bytes_are_put_right_in_place(damage: bytes, store: Store):
    """What the chain proves is the copy's comes back where it was: position and chain stay, whatever stood there."""
    before = everything(store)
    lose_event(store, "b", 2)
    change_event(store, "a", 3, state=damage)
    dry = heal(store, _copy(*account_stream("a", LAST), *account_stream("b", LAST)), dry_run=True)
    assert dry.plan is not None
    assert dry.plan.select("account_id", "version", "why").rows() == [("a", 3, "damaged"), ("b", 2, "hole")]
    found = heal(store, _copy(*account_stream("a", LAST), *account_stream("b", LAST)))
    assert (found.verdict, found.restored, found.imported) == ("OK", 2, 0)
    after = everything(store)
    assert [row for row in before if row not in after] == [before[LAST + 1]]
    assert balances(store, now=NOW).verdict == "COMPLETE"


def test_damage_beside_what_is_lost_is_proved_with_it(store: Store):
    """Lost events, then damaged ones: the copy's bytes prove one another by the chains that are there."""
    digest = balances(store, now=NOW).certificate.digest
    lose_event(store, "a", 2, 3)
    lose_event(store, "b", 1)
    for account_id, version in (("a", 4), ("a", LAST), ("b", 2)):
        change_event(store, account_id, version, state=b"?")
    found = heal(store, _copy(*account_stream("a", LAST), *account_stream("b", LAST)))
    assert (found.verdict, found.restored, found.conflicts) == ("OK", 6, [])
    assert balances(store, now=NOW).certificate.digest == digest


def test_damage_that_nothing_proves_is_a_conflict(store: Store):
    """With the chain damaged too, or the event before it lost in the copy as well, nothing is written."""
    change_event(store, "a", 3, state=b"?", chain=b"?")
    lose_event(store, "b", 2)
    change_event(store, "b", 3, state=b"?")
    before = everything(store)
    found = heal(store, _copy(recorded("a", 3), recorded("b", 3), recorded("a", LAST + 1)))
    assert (found.verdict, found.conflicts_count, found.restored, found.imported) == ("REFUSED", 2, 0, 0)
    assert everything(store) == before


class _Meanwhile:
    """A copy that, once it was read, has somebody append to the store."""

    where = "a copy"

    def __init__(self, copy: Copy, append: object) -> None:
        self._copy, self._append = copy, append

    def records(self) -> Iterator[Records | Unread]:
        """Yield the copy's records."""
        yield from self._copy.records()
        self._append()


def test_who_appends_meanwhile_is_not_written_over(store: Store):
    """An event that was appended between the judgement and the healing, other than the copy's, takes all of it back."""
    lose_event(store, "b", 2)
    copy = _copy(recorded("b", 2), recorded("a", LAST + 1))
    ledger = Ledger(store, clock=lambda: NOW)
    # The pass over the copy reads one snapshot, so what is appended in it is seen only when all is judged again.
    found = heal(store, _Meanwhile(copy, lambda: ledger.credit("a", "other", 5)))
    assert (found.verdict, found.restored, found.imported) == ("REFUSED", 0, 0)
    assert "stored with other bytes" in found.conflicts[0].reason
    assert balances(store, now=NOW).verdict == "INCOMPLETE"


def test_who_appends_meanwhile_is_left_out_when_conflicts_are_skipped(store: Store):
    """An account that somebody appended something else to meanwhile is left out, and the others come back."""
    lose_event(store, "b", 2)
    copy = _copy(recorded("b", 2), recorded("a", LAST + 1))
    ledger = Ledger(store, clock=lambda: NOW)
    found = heal(store, _Meanwhile(copy, lambda: ledger.credit("a", "other", 5)), skip_conflicts=True)
    assert (found.verdict, found.restored, found.imported, found.conflicting) == ("INCOMPLETE", 1, 0, {"a"})
    assert balances(store, now=NOW).verdict == "COMPLETE"


def test_a_copy_that_shares_nothing_is_refused(store: Store, tmp_path: Path):
    """Events of accounts that the store has never heard of may be another ledger's; one shared event settles it."""
    stranger = _copy(*account_stream("x", 3))
    before = everything(store)
    with pytest.raises(RefusedError, match="not one of its 3 records is in this ledger"):
        heal(store, stranger, must_overlap=True)
    assert everything(store) == before
    shared = _copy(*account_stream("x", 3), recorded("a", 2))
    assert heal(store, shared, must_overlap=True, dry_run=True).imported == 3
    lose_event(store, "a", 2)
    assert heal(store, shared, must_overlap=True).restored == 1
    assert heal(store, _copy(*account_stream("y", 3))).imported == 3
    empty = Store.at(tmp_path / "empty")
    assert heal(empty, stranger, must_overlap=True).imported == 3
    empty.close()


def test_a_lost_database_is_the_same_ledger_again(store: Store, tmp_path: Path):
    """An empty store healed from the copy has the digest of before, and heads that the ledger goes on from."""
    before = balances(store, now=NOW).certificate
    stream = stream_of(store)
    with store.writing() as connection:
        connection.execute(delete(EVENTS))
        connection.execute(delete(HEADS))
    assert heal(store, ListCopy(stream)).imported == 2 * LAST
    after = balances(store, now=NOW).certificate
    assert (after.digest, after.verdict) == (before.digest, "COMPLETE")
    Ledger(store, clock=lambda: NOW).credit("a", "more", 1)
    assert balances(store, now=NOW).verdict == "COMPLETE"

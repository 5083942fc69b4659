"""The commands of a ledger: what each does, that each can be repeated, and what each refuses, naming why."""

from __future__ import annotations

import itertools
import shutil
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import START, opened, recorded

import schemas.errors as refusals
from ledger import Account, Ledger, Store
from ledger.account import Content, Limits, Moments
from ledger.rules import LEGAL_TRANSITIONS
from schemas import AMOUNT_MAX, TransactionStatusChanged
from schemas.errors import CommandRefused, LedgerReplayError, PointsOverflow, UsageError


class Clock:
    """A clock that goes on by a minute each time it is read."""

    def __init__(self, minutes: int = 0) -> None:
        self.minutes = itertools.count(minutes)

    def __call__(self) -> datetime:
        return START + timedelta(minutes=next(self.minutes))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """The file of a ledger with an open account `a` of 100 points, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("template")
    store = Store.at(folder)
    ledger = Ledger(store, clock=Clock())
    ledger.open("a")
    ledger.credit("a", "first", 100)
    store.close()
    return folder / "ledger.db"


@pytest.fixture
def ledger(template, tmp_path):
    """A ledger with an open account `a` of 100 points."""
    shutil.copy(template, tmp_path)
    store = Store.at(tmp_path)
    yield Ledger(store, clock=Clock(2))
    store.close()


@pytest.fixture
def store(tmp_path):
    """A new store."""
    store = Store.at(tmp_path / "new")
    yield store
    store.close()


def sums(ledger, account_id="a"):
    """Balance, frozen, pending credit and pending debit of an account."""
    account = ledger.account(account_id)
    return account.balance, account.frozen, account.pending_credit, account.pending_debit


def run(ledger, *commands):
    """Give commands, each a method's name and its arguments, and return the last answer."""
    answer = None
    for name, *arguments in commands:
        keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        answer = getattr(ledger, name)(*arguments, **keywords)
    return answer


PENDING, FROZEN = {"status": "pending"}, {"status": "frozen"}

LEGAL = {
    "credit": ([("credit", "a", "t", 30)], (130, 0, 0, 0)),
    "debit": ([("debit", "a", "t", 30)], (70, 0, 0, 0)),
    "debit all": ([("debit", "a", "t", 100)], (0, 0, 0, 0)),
    "pending credit": ([("credit", "a", "t", 30, PENDING)], (100, 0, 30, 0)),
    "pending debit beyond the balance": ([("debit", "a", "t", 300, PENDING)], (100, 0, 0, 300)),
    "frozen debit": ([("debit", "a", "t", 30, FROZEN)], (100, 30, 0, 0)),
    "frozen credit": ([("credit", "a", "t", 30, FROZEN)], (100, 30, 0, 0)),
    "freeze": ([("freeze", "a", "t", 30)], (100, 30, 0, 0)),
    "freeze all": ([("freeze", "a", "t", 100)], (100, 100, 0, 0)),
    "freeze a pending debit": ([("debit", "a", "t", 30, PENDING), ("freeze", "a", "t")], (100, 30, 0, 0)),
    "freeze a pending credit": ([("credit", "a", "t", 30, PENDING), ("freeze", "a", "t", 30)], (100, 30, 0, 0)),
    "complete a credit": ([("credit", "a", "t", 30, PENDING), ("complete", "a", "t")], (130, 0, 0, 0)),
    "complete a debit": ([("debit", "a", "t", 30, PENDING), ("complete", "a", "t")], (70, 0, 0, 0)),
    "complete a hold": ([("freeze", "a", "t", 100), ("complete", "a", "t")], (0, 0, 0, 0)),
    "complete a frozen credit": ([("credit", "a", "t", 30, FROZEN), ("complete", "a", "t")], (130, 0, 0, 0)),
    "cancel a pending debit": ([("debit", "a", "t", 30, PENDING), ("cancel", "a", "t")], (100, 0, 0, 0)),
    "cancel a hold": ([("freeze", "a", "t", 30), ("cancel", "a", "t")], (100, 0, 0, 0)),
    "fail a pending credit": ([("credit", "a", "t", 30, PENDING), ("fail", "a", "t")], (100, 0, 0, 0)),
    "reverse a credit": ([("reverse", "a", "first", "r")], (0, 0, 0, 0)),
    "reverse a debit": ([("debit", "a", "t", 30), ("reverse", "a", "t", "r")], (100, 0, 0, 0)),
    "reverse a reversal": ([("reverse", "a", "first", "r"), ("reverse", "a", "r", "rr")], (100, 0, 0, 0)),
    "reverse a completed hold": (
        [("freeze", "a", "t", 30), ("complete", "a", "t"), ("reverse", "a", "t", "r")],
        (100, 0, 0, 0),
    ),
    "settle while locked": (
        [("freeze", "a", "t", 30), ("debit", "a", "u", 5, PENDING), ("credit", "a", "v", 5, PENDING), ("lock", "a"),
         ("complete", "a", "t"), ("cancel", "a", "u"), ("fail", "a", "v")],
        (70, 0, 0, 0),
    ),
    "unlock and go on": ([("lock", "a"), ("unlock", "a"), ("credit", "a", "t", 1)], (101, 0, 0, 0)),
    "a reversal whose original was partly given back": (
        [("debit", "a", "t", 30), ("credit", "a", "back", 10, {"related_transaction_id": "t"}),
         ("reverse", "a", "t", "r")],
        (110, 0, 0, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_command_moves_the_sums(ledger, name):
    """Each command leaves the sums that the design gives for it, in memory and read again."""
    commands, expected = LEGAL[name]
    run(ledger, *commands)
    assert sums(ledger) == expected
    assert sums(Ledger(ledger.store)) == expected
    assert ledger.account("a").available == expected[0] - expected[1]


@pytest.mark.parametrize("name", LEGAL)
def test_a_repeated_command_appends_nothing_and_answers_alike(ledger, name):
    """Each command given twice, at once or after all others, is one command."""
    commands, _ = LEGAL[name]
    answers = [run(ledger, command) for command in commands]
    version = ledger.account("a").version
    repeated = [command for command in commands if command[0] not in ("lock", "unlock")]
    kept = [answer for command, answer in zip(commands, answers, strict=True) if command in repeated]
    assert [run(ledger, command) for command in repeated] == kept
    assert ledger.account("a").version == version == max(answers)


LARGE = [("credit", "a", "large", AMOUNT_MAX - 100)]

REFUSED = {
    "open twice": ([], ("open", "a"), "AccountExists", "open already"),
    "unknown account": ([], ("credit", "b", "t", 1), "UnknownAccount", "no such account"),
    "unknown account asked": ([], ("account", "b"), "UnknownAccount", "no such account"),
    "overdraft": ([], ("debit", "a", "t", 101), "InsufficientPoints", "101 points asked for, 100 available"),
    "overdraft of what is not frozen": (
        [("freeze", "a", "h", 60)], ("debit", "a", "t", 41), "InsufficientPoints", "balance 100, frozen 60"),
    "overdraft on completing": (
        [("debit", "a", "t", 101, PENDING)], ("complete", "a", "t"), "InsufficientPoints", "101 points"),
    "reversing what is spent": (
        [("debit", "a", "t", 1)], ("reverse", "a", "first", "r"), "InsufficientPoints", "99 available"),
    "over-freeze": ([], ("freeze", "a", "t", 101), "InsufficientPoints", "100 available"),
    "over-freeze by status": ([], ("debit", "a", "t", 101, FROZEN), "InsufficientPoints", "100 available"),
    "over-freeze of a pending": (
        [("debit", "a", "t", 101, PENDING)], ("freeze", "a", "t"), "InsufficientPoints", "100 available"),
    "another amount": ([], ("credit", "a", "first", 99), "ConflictingTransaction", "its amount is 100, not 99"),
    "another type": ([], ("debit", "a", "first", 100), "ConflictingTransaction", "type is 'credit', not 'debit'"),
    "another status": ([], ("credit", "a", "first", 100, PENDING), "ConflictingTransaction", "'completed'"),
    "another order": ([], ("credit", "a", "first", 100, {"order_id": "o"}), "ConflictingTransaction", "order_id"),
    "other metadata": ([], ("credit", "a", "first", 100, {"metadata": {}}), "ConflictingTransaction", "metadata"),
    "another moment": (
        [], ("credit", "a", "first", 100, {"effective_at": START}), "ConflictingTransaction", "effective at"),
    "a hold of another amount": (
        [("freeze", "a", "t", 5)], ("freeze", "a", "t", 6), "ConflictingTransaction", "amount is 5, not 6"),
    "a freeze of another amount": (
        [("debit", "a", "t", 5, PENDING)], ("freeze", "a", "t", 6), "ConflictingTransaction", "5 points, not 6"),
    "a freeze of another order": (
        [("debit", "a", "t", 5, PENDING)], ("freeze", "a", "t", {"order_id": "o"}), "ConflictingTransaction",
        "another order_id"),
    "a hold without amount": ([], ("freeze", "a", "t"), "UnknownTransaction", "no such transaction"),
    "freeze a completed": ([], ("freeze", "a", "first"), "IllegalTransition", "from completed to frozen"),
    "complete an unknown": ([], ("complete", "a", "t"), "UnknownTransaction", "no such transaction"),
    "cancel a completed": ([], ("cancel", "a", "first"), "IllegalTransition", "from completed to cancelled"),
    "fail a completed": ([], ("fail", "a", "first"), "IllegalTransition", "from completed to failed"),
    "fail a hold": ([("freeze", "a", "t", 1)], ("fail", "a", "t"), "IllegalTransition", "from frozen to failed"),
    "complete a cancelled": (
        [("freeze", "a", "t", 1), ("cancel", "a", "t")], ("complete", "a", "t"), "IllegalTransition", "cancelled"),
    "complete a failed": (
        [("credit", "a", "t", 1, PENDING), ("fail", "a", "t")], ("complete", "a", "t"), "IllegalTransition", "failed"),
    "begin cancelled": ([], ("credit", "a", "t", 1, {"status": "cancelled"}), "IllegalTransition", "from nothing"),
    "begin failed": ([], ("debit", "a", "t", 1, {"status": "failed"}), "IllegalTransition", "from nothing to failed"),
    "reverse an unknown": ([], ("reverse", "a", "t", "r"), "UnknownTransaction", "no such transaction"),
    "reverse a pending": (
        [("credit", "a", "t", 1, PENDING)], ("reverse", "a", "t", "r"), "IllegalTransition", "this one is pending"),
    "reverse twice": (
        [("debit", "a", "t", 1), ("reverse", "a", "t", "r")], ("reverse", "a", "t", "r2"), "ConflictingTransaction",
        "reversed already, by 'r'"),
    "reverse by itself": ([], ("reverse", "a", "first", "first"), "ConflictingTransaction", "type"),
    "reverse by another's id": (
        [("debit", "a", "t", 1)], ("reverse", "a", "first", "t"), "ConflictingTransaction", "amount"),
    "credit while locked": ([("lock", "a")], ("credit", "a", "t", 1), "AccountLocked", "locked"),
    "debit while locked": ([("lock", "a")], ("debit", "a", "t", 1), "AccountLocked", "locked"),
    "freeze while locked": ([("lock", "a")], ("freeze", "a", "t", 1), "AccountLocked", "locked"),
    "freeze a pending while locked": (
        [("debit", "a", "t", 1, PENDING), ("lock", "a")], ("freeze", "a", "t"), "AccountLocked", "locked"),
    "reverse while locked": ([("lock", "a")], ("reverse", "a", "first", "r"), "AccountLocked", "locked"),
    "close with a balance": ([], ("close", "a"), "AccountNotEmpty", "balance 100"),
    "close with a hold": ([("freeze", "a", "t", 100)], ("close", "a"), "AccountNotEmpty", "frozen 100"),
    "close with a pending": (
        [("debit", "a", "t", 100), ("credit", "a", "u", 7, PENDING)], ("close", "a"), "AccountNotEmpty",
        "pending_credit 7"),
    **{
        f"{command[0]} a closed": (
            [("debit", "a", "t", 100), ("close", "a")], command, "AccountClosed", "closed")
        for command in [("credit", "a", "u", 1), ("debit", "a", "u", 1), ("freeze", "a", "u", 1),
                        ("reverse", "a", "t", "r"), ("lock", "a"), ("unlock", "a")]
    },
    "a balance past int64": (LARGE, ("credit", "a", "t", 1), "PointsOverflow", "balance would be 9223372036854775808"),
    "pending past int64": (
        [("credit", "a", "t", AMOUNT_MAX, PENDING)], ("credit", "a", "u", 1, PENDING), "PointsOverflow",
        "pending_credit would be"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_illegal_command_is_refused_naming_why_and_changes_nothing(ledger, name):
    """Each refusal is of its own kind, says what, where and why, and appends no event."""
    commands, (command, *arguments), kind, said = REFUSED[name]
    run(ledger, *commands)
    before = ledger.account("a")
    with pytest.raises(LedgerReplayError) as refused:
        run(ledger, (command, *arguments))
    error = refused.value
    assert type(error) is getattr(refusals, kind)
    assert said in error.what
    assert error.next_step
    assert f"account {arguments[0]!r}" in error.where
    if len(arguments) > 1 and kind != "UnknownAccount":
        assert "transaction " in error.where
    assert ledger.account("a") == before
    assert isinstance(error, CommandRefused | PointsOverflow)


def test_overdraft_and_over_freeze_are_taken_where_the_ledger_allows_them(store):
    """A ledger configured so goes below zero, on debit, on completing and on freezing."""
    free = Ledger(store, allow_overdraft=True, allow_over_freeze=True)
    free.open("a")
    free.debit("a", "t1", 10)
    free.debit("a", "t2", 10, status="pending")
    free.complete("a", "t2")
    free.freeze("a", "t3", 5)
    free.credit("a", "t4", 3)
    free.debit("a", "t5", 3)
    free.reverse("a", "t4", "r")
    assert sums(free) == (-23, 5, 0, 0)
    only_overdraft = Ledger(store, allow_overdraft=True)
    with pytest.raises(refusals.InsufficientPoints):
        only_overdraft.freeze("a", "t6", 1)
    only_over_freeze = Ledger(store, allow_over_freeze=True)
    with pytest.raises(refusals.InsufficientPoints):
        only_over_freeze.debit("a", "t6", 1)


def test_a_hold_can_be_completed_though_nothing_is_available(store):
    """Completing a hold takes what was set aside, whatever became of the rest."""
    ledger = Ledger(store, allow_over_freeze=True)
    ledger.open("a")
    ledger.freeze("a", "t", 5)
    strict = Ledger(store)
    strict.complete("a", "t")
    assert sums(strict) == (-5, 0, 0, 0)


def test_answers_are_the_versions_of_the_events(ledger):
    """Each command answers with the version that its event has."""
    assert ledger.open("b") == 1
    assert ledger.credit("b", "t", 5, status="pending") == 2
    assert ledger.complete("b", "t") == 3
    assert ledger.lock("b", reason="audit") == 4
    assert ledger.lock("b") == 4
    assert ledger.unlock("b") == 5
    assert ledger.unlock("b") == 5
    assert ledger.debit("b", "v", 5) == 6
    assert ledger.close("b") == 7
    assert ledger.close("b") == 7
    assert ledger.account("b").version == 7


def test_locking_says_since_when(ledger):
    """A locked account knows the moment of its lock, and forgets it when unlocked."""
    moment = START + timedelta(days=1)
    ledger.lock("a", effective_at=moment)
    account = ledger.account("a")
    assert (account.status, account.locked_at) == ("locked", moment)
    ledger.unlock("a")
    account = ledger.account("a")
    assert (account.status, account.locked_at) == ("active", None)


def test_a_reversal_refers_to_what_it_undoes_and_keeps_its_order(ledger):
    """The reversal is a completed transaction of the opposite type, of the same amount and order."""
    ledger.debit("a", "t", 30, order_id="o1", business_code="purchase")
    ledger.reverse("a", "t", "r", metadata={"why": "returned"})
    content = ledger.account("a").transactions["r"].content
    assert (content.type, content.amount, content.status) == ("credit", 30, "completed")
    assert (content.related_transaction_id, content.order_id, content.business_code) == ("t", "o1", None)


def test_moments_are_given_or_of_the_clock(ledger):
    """An event is effective when the caller says, else now, and recorded now; last_effective_at is the latest."""
    before = ledger.account("a").last_effective_at
    past = datetime(2020, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    ledger.credit("a", "t", 1, effective_at=past)
    account = ledger.account("a")
    assert account.transactions["t"].created_at == datetime(2020, 1, 1, tzinfo=UTC)
    assert account.last_effective_at == before
    assert account.modified_on > before


def test_time_does_not_go_back_within_a_transaction(ledger):
    """A change before its transaction's last is refused when said, and put at the last when it is the clock's."""
    later = START + timedelta(days=400)
    ledger.credit("a", "t", 1, status="pending", effective_at=later)
    with pytest.raises(UsageError, match="time goes back"):
        ledger.complete("a", "t", effective_at=later - timedelta(microseconds=1))
    ledger.complete("a", "t")
    assert ledger.account("a").transactions["t"].updated_at == later


@pytest.mark.parametrize(
    "command",
    [
        *[("credit", "a", "t", amount) for amount in (0, -1, 2**63, 1.0, "1", True, None)],
        *[("credit", "a", bad, 1) for bad in ("", "x" * 256, "a\0b", "\ud800", None, 7)],
        *[(name, bad) for name in ("open", "lock", "close") for bad in ("", "x" * 256, "a\0", "\udfff")],
        ("credit", "a", "t", 1, {"status": "done"}),
        ("credit", "a", "t", 1, {"effective_at": datetime(2024, 1, 1)}),  # noqa: DTZ001 - that it has no zone.
        ("credit", "a", "t", 1, {"effective_at": "2024-01-01"}),
        ("credit", "a", "t", 1, {"effective_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=8)))}),
        ("credit", "a", "t", 1, {"metadata": {"key": object()}}),
        ("credit", "a", "t", 1, {"metadata": [1]}),
        ("credit", "a", "t", 1, {"metadata": {"key": "\ud800"}}),
        ("credit", "a", "t", 1, {"order_id": "\ud800"}),
        ("credit", "a", "t", 1, {"business_code": 5}),
        ("lock", "a", {"reason": "\ud800"}),
        ("reverse", "a", "first", ""),
        ("complete", "a", "\0"),
        ("freeze", "a", "t", 0),
    ],
)
def test_what_no_event_can_hold_is_bad_usage(ledger, command):
    """Amounts, ids, moments and texts that cannot be kept are refused as bad usage, and nothing is appended."""
    before = ledger.account("a")
    with pytest.raises(UsageError) as refused:
        run(ledger, command)
    assert refused.value.next_step
    assert ledger.account("a") == before


@pytest.mark.parametrize(
    "name", ["日本", "é", "e\u0301", "😀", " ", "a\nb", "'; DROP TABLE stored_events; --", '"', "\u202e", "x" * 255]
)
def test_ids_of_every_kind_of_unicode_are_kept_apart(ledger, name):
    """Accounts and transactions are known by exactly the characters of their ids."""
    ledger.open(name)
    ledger.credit(name, name, 5, order_id=name, metadata={name: name})
    account = ledger.account(name)
    assert account.id == name
    assert account.transactions[name].content.metadata == {name: name}


def test_metadata_is_compared_as_it_is_kept(ledger):
    """A repeated command with the same metadata in another form of Python is the same command."""
    version = ledger.credit("a", "t", 1, metadata={"when": START, "ids": ("x", "y")})
    assert ledger.credit("a", "t", 1, metadata={"when": START, "ids": ["x", "y"]}) == version


def test_projecting_nothing_gives_no_account():
    """No events, no account."""
    assert Account.project(None, []) is None


def test_an_illegal_event_still_applies_its_delta():
    """What the log says is summed even where the rules would not have allowed it."""
    change = {"transaction_id": "t", "type": "credit", "amount": 10}
    key = {name: getattr(recorded("a", 3), name) for name in ("event_id", "account_id", "effective_at", "recorded_at")}
    events = [
        opened("a"),
        recorded("a", 2, transaction_id="t"),
        TransactionStatusChanged(**key, **change, version=3, from_status="completed", to_status="cancelled"),
        TransactionStatusChanged(**key, **change, version=4, from_status="completed", to_status="frozen"),
        recorded("a", 5, transaction_id="t", amount=AMOUNT_MAX),
        recorded("a", 6, transaction_id="t", amount=AMOUNT_MAX),
    ]
    account = Account.project(None, events)
    assert account.balance == 10 - 10 - 10 + 2 * AMOUNT_MAX
    assert account.frozen == 10
    assert account.version == 6


names = st.sampled_from(["t1", "t2", "t3"])
contents = st.builds(
    Content,
    type=st.sampled_from(["credit", "debit"]),
    amount=st.sampled_from([1, 2, 50, AMOUNT_MAX]),
    status=st.sampled_from(["pending", "frozen", "completed", "cancelled", "failed"]),
    related_transaction_id=st.none() | names,
)
commands = st.one_of(
    st.tuples(st.just("record"), names, contents),
    st.tuples(st.just("change"), names, st.sampled_from(["frozen", "completed", "cancelled", "failed"])),
    st.tuples(st.just("freeze"), names, st.none() | st.sampled_from([1, 50]), contents),
    st.tuples(st.just("reverse"), names, names, st.just({})),
    st.tuples(st.sampled_from(["lock", "unlock", "close"]), st.none()),
)


def give(account, command, limits, moments):
    """Give one command to an aggregate and return its answer, None where it is refused."""
    name, *arguments = command
    try:
        if name in ("lock", "unlock", "close"):
            return getattr(account, name)(moments, *arguments)
        if name == "freeze":
            amount, asked = arguments[1], msgspec.structs.replace(arguments[2], type="debit", status="frozen")
            arguments[2] = msgspec.structs.replace(asked, amount=1 if amount is None else amount)
        return getattr(account, name)(*arguments, moments, limits)
    except (CommandRefused, PointsOverflow):
        return None


@given(st.lists(commands, max_size=25), st.booleans(), st.booleans())
def test_whatever_commands_are_given_the_account_keeps_its_rules(given_commands, allow_overdraft, allow_over_freeze):
    """Sums follow from final statuses, nothing is overdrawn or illegal, and a refusal or a repeat changes nothing."""
    limits, moments = Limits(allow_overdraft, allow_over_freeze), Moments(None, START)
    account = Account.start("a", START)
    account.open(moments, None)
    for command in given_commands:
        before = repr(account)
        events = len(account.pending_events)
        answer = give(account, command, limits, moments)
        if answer is None:
            assert repr(account) == before
        else:
            after = repr(account)
            assert len(account.pending_events) - events in (0, 1)
            if account.status == "active" and command[0] not in ("lock", "unlock", "close"):
                assert give(account, command, limits, moments) == answer
                assert repr(account) == after
        if not allow_overdraft and not allow_over_freeze:
            assert account.available >= 0
    check_sums(account)
    events = account.collect_events()
    assert Account.project(None, events) == account
    for event in events:
        if hasattr(event, "to_status"):
            assert (event.from_status, event.to_status) in LEGAL_TRANSITIONS


def check_sums(account):
    """Check each sum against the final statuses of the account's transactions."""
    held = {"balance": 0, "frozen": 0, "pending_credit": 0, "pending_debit": 0}
    for transaction in account.transactions.values():
        if transaction.status == "completed":
            held["balance"] += transaction.amount if transaction.type == "credit" else -transaction.amount
        elif transaction.status == "frozen":
            held["frozen"] += transaction.amount
        elif transaction.status == "pending":
            held[f"pending_{transaction.type}"] += transaction.amount
    assert held == {name: getattr(account, name) for name in held}
    assert all(-(2**63) <= points < 2**63 for points in (*held.values(), account.available))


def test_the_shells_environment_does_not_change_the_format(store, monkeypatch):
    """The library's own settings in the environment neither encrypt nor move what a ledger keeps."""
    monkeypatch.setenv("COMPRESSOR_TOPIC", "zlib")
    monkeypatch.setenv("PERSISTENCE_MODULE", "eventsourcing.popo")
    monkeypatch.setenv("IS_SNAPSHOTTING_ENABLED", "y")
    ledger = Ledger(store)
    ledger.open("a")
    with store.snapshot() as connection:
        (batch,) = store.read(connection)
    assert batch["state"][0].startswith(b'{"event":"account.opened"')
    assert ledger.snapshots is None

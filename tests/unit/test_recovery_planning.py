"""What a plan says: every change with its reason and its right, and everything else as left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ledgers import append, change_row, lose_event, write_history
from live_tables import Live, accounts_table
from planned import NOW, START, by_field, left_of, plan_of, stocked, table_of
from samples import opened, recorded
from sqlalchemy import insert

from ledger import Ledger, Store
from ledger.tables import IMPORTED_ACCOUNTS
from replay import balances, rebuild
from replay.comparison.live_table import LiveTable
from replay.recovery.plan import Plan, sealed
from replay.recovery.planning import Policy, target_of
from schemas.errors import UsageError

ROW = {"balance": 70, "frozen": 0, "status": "active", "locked_at": None}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """The live table of another system."""
    live = Live(f"sqlite:///{tmp_path}/other.db")
    yield live
    live.close()


def told(plan: Plan, account_id: str, field: str = "balance") -> tuple[Any, ...]:
    """From, to, what the log says, basis and class of a change."""
    found = by_field(plan)[account_id, field]
    return found.from_, found.to, found.log, found.basis, found.cause


def test_nothing_to_do(store: Store, live: Live) -> None:
    """Of a live table that is right a plan has nothing, and it says what it compared."""
    stocked(store, live, ["a", "b"])
    plan = plan_of(store, live)
    assert (plan.changes, plan.left, plan.settle, plan.heal, plan.unlock) == ([], [], [], [], [])
    assert (plan.compared, plan.drifted, plan.accounts) == (2, 0, None)
    assert plan == sealed(plan)


def test_fingerprints_of_the_input(store: Store, live: Live) -> None:
    """Position and digest are those of a replay, and the live rows that would change have one of their own."""
    stocked(store, live, ["a", "b", "c"])
    live.change("b", balance=0)
    plan = plan_of(store, live)
    certificate = balances(store, now=NOW).certificate
    assert (plan.position, plan.log_digest) == (certificate.position, certificate.digest)
    assert plan.ledger_id == store.ledger_id
    line = msgspec.json.encode(["b", 0, 0, "active", None]) + b"\n"
    assert plan.live_digest == hashlib.sha256(b"ledger-replay live rows 1\0" + line).hexdigest()


def test_changes_that_the_log_explains(store: Store, live: Live) -> None:
    """Where that is allowed, what one event explains goes by the log, up and down, with class, evidence and version."""
    stocked(store, live, ["missed", "twice", "gone", "low"])
    live.change("missed", balance=100)
    live.change("twice", balance=170)
    live.remove("gone")
    live.change("low", balance=1)
    plan = plan_of(store, live, policy=Policy(lowering="explained"))
    assert told(plan, "missed") == (100, 70, 70, "log", "missed_event")
    assert told(plan, "twice") == (170, 70, 70, "log", "applied_twice")
    assert told(plan, "low") == (1, 70, 70, "log", "foreign_write")
    row = by_field(plan)["gone", "row"]
    assert (row.from_, msgspec.json.decode(row.to), row.basis, row.cause) == (None, ROW, "log", "row_missing")
    assert {each.version for each in plan.changes} == {3}
    assert by_field(plan)["missed", "balance"].reason.startswith("Live is what the log says without event")


def test_what_live_holds_more_waits(store: Store, live: Live) -> None:
    """Points that no event explains, and rows that the log never heard of, wait for a person with all their fields."""
    stocked(store, live, ["more", "hold"])
    live.change("more", balance=75)
    live.change("hold", balance=60, frozen_amount=5)
    live.put([("extra", 70, 0, "active", None)])
    plan = plan_of(store, live)
    assert told(plan, "more") == (75, None, 70, "unknown", "foreign_write")
    assert "5 points more in the balance than the log explains" in by_field(plan)["more", "balance"].reason
    assert told(plan, "hold") == (60, None, 70, "unknown", "foreign_write")
    assert told(plan, "hold", "frozen") == (5, None, 0, "unknown", "foreign_write")
    extra = by_field(plan)["extra", "row"]
    assert (msgspec.json.decode(extra.from_), extra.to, extra.log) == (ROW, None, None)
    assert (extra.basis, extra.cause, extra.version) == ("unknown", "row_extra", None)
    assert len(plan.undecided()) == 4


def test_no_live_table_is_lowered_by_itself(store: Store, live: Live) -> None:
    """What lowers a table waits even where an event explains it, and says so; only what is raised goes by the log."""
    ledger = stocked(store, live, ["missed", "twice", "hold", "low"])
    live.change("missed", balance=100)
    live.change("twice", balance=170)
    live.change("low", balance=1)
    ledger.freeze("hold", "h1", 20)
    ledger.cancel("hold", "h1")
    live.change("hold", frozen_amount=20)
    plan = plan_of(store, live)
    assert told(plan, "missed") == (100, None, 70, "unknown", "missed_event")
    assert told(plan, "twice") == (170, None, 70, "unknown", "applied_twice")
    assert told(plan, "hold", "frozen") == (20, None, 0, "unknown", "missed_event")
    reason = by_field(plan)["missed", "balance"].reason
    assert reason.startswith("Live has 30 points more in the balance; live is what the log says without event")
    assert reason.endswith("but an event that the log lost would explain it as well.")
    assert told(plan, "low")[3] == "log"


def test_a_credit_that_the_log_lost_is_not_taken_from_live(store: Store, live: Live) -> None:
    """Live has the seventh of seven equal credits, which the log lost: one applied twice looks the same."""
    append(store, opened("a"), *(recorded("a", version, 10) for version in range(2, 8)))
    live.put([("a", 70, 0, "active", None)])
    assert told(plan_of(store, live), "a") == (70, None, 60, "unknown", "applied_twice")


def test_a_lock_that_nothing_explains_is_not_undone(store: Store, live: Live) -> None:
    """A lock or a closing that the log knows nothing of waits for a person; an unlock that live missed does not."""
    ledger = stocked(store, None, ["locked", "closed", "again", "shut", "missed"])
    for each in ("locked", "closed", "missed"):
        ledger.lock(each)
        ledger.unlock(each)
    for each in ("again", "shut"):
        ledger.lock(each)
    live.put(
        [
            ("locked", 70, 0, "locked", "2024-03-10T11:00:00Z"),
            ("closed", 70, 0, "closed", None),
            ("again", 70, 0, "locked", "2024-03-10T11:00:00Z"),
            ("shut", 70, 0, "closed", None),
            ("missed", 70, 0, "locked", "2024-03-01T12:00:00Z"),
        ]
    )
    plan = plan_of(store, live)
    for account_id, before, after in [("locked", "locked", "active"), ("closed", "closed", "active")]:
        assert told(plan, account_id, "status") == (before, None, after, "unknown", "foreign_write")
    assert told(plan, "again", "locked_at")[1:4:2] == (None, "unknown")
    assert told(plan, "shut", "status") == ("closed", None, "locked", "unknown", "foreign_write")
    assert by_field(plan)["closed", "status"].reason.startswith("Live is closed, which nothing in the log explains")
    assert told(plan, "missed", "status") == ("locked", "active", "active", "log", "missed_event")


def test_parked_accounts(store: Store, live: Live) -> None:
    """What the log cannot vouch for is a change that nobody knows, and is left with the reason as well."""
    stocked(store, live, ["a", "gap", "none"])
    lose_event(store, "gap", 2)
    lose_event(store, "none", 3)
    live.remove("none")
    plan = plan_of(store, live)
    assert told(plan, "gap") == (70, None, None, "unknown", "log_damaged")
    assert by_field(plan)["none", "row"].from_ is None
    assert {each.version for each in plan.changes} == {3}
    assert [each.kind for each in left_of(plan, "gap")] == ["parked"]
    assert "version 2 is missing" in left_of(plan, "gap")[0].reason


def test_a_lock_that_is_missed(store: Store, live: Live) -> None:
    """A status is corrected, and a lock that is set gets its time; a stuck one is to be unlocked after that."""
    ledger = stocked(store, live, ["a"])
    ledger.lock("a")
    plan = plan_of(store, live)
    assert told(plan, "a", "status") == ("active", "locked", "locked", "log", "missed_event")
    assert told(plan, "a", "locked_at")[:2] == (None, "2024-03-01T12:00:00.000000Z")
    assert [each.account_id for each in plan.unlock] == ["a"]


def test_a_table_without_lock_times(store: Store, tmp_path: Path) -> None:
    """A table that knows no lock times gets none."""
    table = accounts_table()
    table._columns.remove(table.c.locked_at)  # type: ignore[attr-defined]
    live = Live(f"sqlite:///{tmp_path}/other.db", table)
    try:
        ledger = stocked(store, None, ["a"])
        ledger.lock("a")
        live.put([("a", 70, 0, "active")], ("account_id", "balance", "frozen_amount", "status"))
        assert set(by_field(plan_of(store, live))) == {("a", "status")}
    finally:
        live.close()


def test_stuck_locks(store: Store, live: Live) -> None:
    """Locks are undone where nothing is pending, or where the plan settles all that is; the rest is left."""
    ledger = stocked(store, None, ["idle", "stale", "other", "fresh"])
    ledger.credit("stale", "s1", 5, status="pending", business_code="gift")
    ledger.credit("other", "o1", 5, status="pending")
    for account_id in ("idle", "stale", "other"):
        ledger.lock(account_id)
    ledger.lock("fresh", effective_at=NOW - timedelta(hours=1))
    live.put(
        [(each, 70, 0, "locked", "2024-03-01T12:00:00Z") for each in ("idle", "stale", "other")]
        + [("fresh", 70, 0, "locked", None)]
    )
    plan = plan_of(store, live, policy=Policy(settle_codes={"gift": "cancel"}))
    assert {each.account_id: each.reason.split(",")[0] for each in plan.unlock} == {
        "idle": "recovered by itself: locked for more than a day",
        "stale": "locked for more than a day",
    }
    assert [(each.kind, each.transactions) for each in left_of(plan, "other")] == [
        ("locked", ["o1"]),
        ("stale_pending", ["o1"]),
    ]
    assert left_of(plan, "fresh") == []


def test_narrowed(store: Store, live: Live) -> None:
    """A plan of some accounts has nothing of others, and an account that is nowhere is named."""
    ledger = stocked(store, live, ["a", "b", "c", "d"])
    for each in "ab":
        live.change(each, balance=0)
    for each in "cd":
        ledger.credit(each, "p", 5, status="pending")
    lose_event(store, "d", 2)
    plan = plan_of(store, live, accounts=["b", "c", "b"])
    assert set(by_field(plan)) == {("b", "balance")}
    assert [each.account_id for each in plan.left] == ["c"]
    assert (plan.accounts, plan.compared, plan.drifted) == (["b", "c"], 3, 2)
    with pytest.raises(UsageError, match=r"neither the log nor live has these accounts: 'x', 'y'"):
        plan_of(store, live, accounts=["y", "a", "x", "d"])


def test_rows_that_cannot_be_read(store: Store, live: Live) -> None:
    """A live row that cannot be read is left by its account, handed on, and changed by nobody."""
    stocked(store, live, ["a", "b"])
    live.change("a", status="odd")
    rejected: list[int] = []
    plan = plan_of(store, live, rejects=lambda rows: rejected.append(rows.height))
    assert plan.changes == []
    assert [each.kind for each in left_of(plan, "a")] == ["unreadable"]
    assert "odd" in left_of(plan, "a")[0].reason
    assert sum(rejected) >= 1


def test_a_row_of_no_account(store: Store, tmp_path: Path) -> None:
    """A live row that names no account is left too."""
    live = Live(f"sqlite:///{tmp_path}/other.db", accounts_table(is_keyed=False))
    try:
        stocked(store, live, ["a"])
        live.put([(None, 5, 0, "active", None)])
        plan = plan_of(store, live)
        assert [(each.kind, each.account_id) for each in plan.left] == [("unreadable", "")]
    finally:
        live.close()


def test_what_changes_while_it_is_planned(store: Store, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account whose row changes between comparison and plan is left, and so is what it would settle."""
    from replay.recovery import planning

    ledger = stocked(store, live, ["a", "b"])
    for each in "ab":
        ledger.credit(each, "p", 5, status="pending")
    live.change("a", balance=0)
    compare = planning.drift_once

    def compared(*given: Any, **options: Any) -> Any:
        found = compare(*given, **options)
        live.change("a", balance=1)
        live.change("b", balance=2)
        return found

    monkeypatch.setattr(planning, "drift_once", compared)
    plan = plan_of(store, live, policy=Policy(settle="complete"))
    assert (plan.changes, plan.settle) == ([], [])
    for each in "ab":
        assert [found.kind for found in left_of(plan, each)] == ["stale_pending", "uncompared"]


def test_imported_rows(store: Store) -> None:
    """The rows of an import are a table of the store's database, and called that."""
    stocked(store, None, ["a"])
    values = {"account_id": "a", "balance": 1, "frozen_amount": 0, "status": "active", "locked_at": None}
    with store.writing() as connection:
        connection.execute(insert(IMPORTED_ACCOUNTS).values(values))
    table = LiveTable(
        url=store.url.render_as_string(hide_password=False), table="imported_accounts", settle_seconds=0, looks_min=1
    )
    plan = plan_of(store, table)
    assert plan.target.kind == "imported"
    assert told(plan, "a") == (1, 70, 70, "log", "foreign_write")


def test_our_own_read_model(store: Store) -> None:
    """Of our own read model every column is planned, but for what an event leaves that is not written yet."""
    write_history(store, accounts=3)
    rebuild(store, promote=True)
    change_row(store, "acc-2", balance=5, last_effective_at="2020-01-01T00:00:00.000000Z")
    change_row(store, "acc-3", pending_credit=0, version=2)
    plan = plan_of(store, None, policy=Policy(settle="complete"), now=NOW + timedelta(days=9))
    assert plan.target == target_of(store, None)
    assert plan.target.kind == "read_model"
    changes = by_field(plan)
    assert changes["acc-2", "balance"].log == 1295
    assert ("acc-2", "last_effective_at") not in changes
    assert changes["acc-3", "version"].from_ == 2
    assert {each.account_id for each in plan.settle} == {"acc-1", "acc-2", "acc-3"}
    assert changes["acc-1", "pending_credit"].to == 0


def test_our_own_read_model_is_lowered_where_an_event_explains_it(store: Store) -> None:
    """Its version says that no event was lost, so what was applied twice goes by the log; points by hand wait."""
    stocked(store, None, ["twice", "hand"])
    rebuild(store, promote=True)
    change_row(store, "twice", balance=170)
    change_row(store, "hand", balance=75)
    plan = plan_of(store, None)
    assert told(plan, "twice") == (170, 70, 70, "log", "applied_twice")
    assert told(plan, "hand") == (75, None, 70, "unknown", "foreign_write")


def test_what_a_target_is_called(store: Store) -> None:
    """The target names database and table without a password."""
    url = "postgresql://ada:secret@db.example/points?sslpassword=secret&connect_timeout=3"
    table = LiveTable(url=url, table="public.accounts")
    target = target_of(store, table)
    assert (target.kind, target.table) == ("foreign", "public.accounts")
    assert target.database == "postgresql+psycopg://ada@db.example/points?connect_timeout=3"


def test_reading_only(store: Store, live: Live) -> None:
    """Planning writes nothing, neither in the store nor in live."""
    ledger: Ledger = stocked(store, live, ["a", "b"])
    ledger.credit("a", "p", 5, status="pending")
    live.change("b", balance=0)
    files = [Path(str(store.url.database)), Path(live.url.removeprefix("sqlite:///"))]
    before = [file.read_bytes() for file in files]
    plan = plan_of(store, live, policy=Policy(settle="complete"))
    assert plan.settle
    assert [file.read_bytes() for file in files] == before
    assert (START, table_of(live).table) == (ledger.clock(), "accounts")

"""`breaks`: what is listed and in which form, what one says, who decides, and what the exit status stands for."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from break_rows_made import at, found, mismatch
from sqlalchemy import insert

from ledger import Store, breaks, orders
from ledger.order_tables import ORDERS_PARKED, ORDERS_WITHHELD
from schemas import format_time
from tests.cli.conftest import Run

NOW = format_time(at(30))


@pytest.fixture
def broken(data: Path) -> Path:
    """A ledger with an open break of two codes, one that is pending, and one that was resolved late."""
    store = Store.at(data)
    with store.writing() as connection:
        orders.lock(connection)
        late = mismatch("o4", account_id=None)
        breaks.apply(connection, found(late), None, until=at(2), now=at(2), grace_seconds=1e7)
        facts = found(
            mismatch("o1"), mismatch("o1", "wrong_account", points=3), mismatch("o2", deadline=99, order_at=at(20))
        )
        breaks.apply(connection, facts, None, until=at(3), now=at(3), grace_seconds=1e7)
        orders.set_read_until(connection, "orders", at(4))
        orders.set_read_until(connection, "ledger", at(3))
    store.close()
    return data


def test_what_is_not_resolved_is_listed(run: Run, broken: Path) -> None:
    """Open and pending breaks are listed with what is at risk, each order once; open ones are findings."""
    said = run("breaks", "--data", broken, "--now", NOW, "--json")
    assert said.status == 1
    document = said.document
    assert document["verdict"] == "FINDINGS"
    assert [(row["order_id"], row["code"], row["state"], row["age_seconds"]) for row in document["breaks"]] == [
        ("o1", "amount_mismatch", "open", 27 * 3_600),
        ("o1", "wrong_account", "open", 27 * 3_600),
        ("o2", "amount_mismatch", "pending", None),
    ]
    assert document["breaks"][0]["transactions"] == ["o1-paid"]
    assert (document["breaks_count"], document["points_at_risk"]) == (3, 5)
    assert document["counts"] == {"pending": 1, "open": 2, "reopened": 0}
    assert document["by_account"] == [{"account_id": "alice", "breaks": 2, "orders": 1, "points_at_risk": 5}]
    assert [each["code"] for each in document["by_code"]] == ["amount_mismatch", "wrong_account"]
    assert document["by_day"] == [{"day": "2026-05-01", "breaks": 2, "orders": 1, "points_at_risk": 5}]
    assert [each["age"] for each in document["by_age"] if each["breaks"]] == ["under 7 days"]
    assert document["read_until_at"] == format_time(at(3))


@pytest.mark.parametrize(
    ("words", "orders_", "status"),
    [
        (["--status", "pending"], ["o2"], 1),
        (["--status", "late"], ["o4"], 1),
        (["--status", "resolved"], ["o4"], 1),
        (["--status", "accepted"], [], 1),
        (["--status", "all"], ["o4", "o1", "o1", "o2"], 1),
        (["--code", "wrong_account"], ["o1"], 1),
        (["--order", "o2"], ["o2"], 0),
        (["--account", "bob"], [], 0),
        (["--start", "2026-05-01T19:00:00Z"], ["o2"], 0),
        (["--end", "2026-05-01"], ["o1", "o1"], 1),
    ],
    ids=lambda value: value[-1] if value and isinstance(value, list) else "",
)
def test_choices(run: Run, broken: Path, words: list[str], orders_: list[str], status: int) -> None:
    """Each option picks; the exit status says whether anything stands among what is picked, whatever its state."""
    for command in (["breaks"], ["breaks", "list"]):
        said = run(*command, "--data", broken, "--now", NOW, "--json", *words)
        assert [row["order_id"] for row in said.document["breaks"]] == orders_
        assert (said.status, said.document["verdict"]) == (status, "FINDINGS" if status else "CLEAN")


def test_words(run: Run, broken: Path) -> None:
    """People read how much is at risk, what each break says, and since when it stands."""
    said = run("breaks", "--data", broken, "--now", NOW)
    assert "FINDINGS: 2 breaks of 1 order open, 5 points at risk; 1 break pending" in said.out
    assert f"both sides were read until {format_time(at(3))}" in said.out
    assert "by code: amount_mismatch 1 (5 points); wrong_account 1 (3 points)" in said.out
    (line,) = [line for line in said.out.splitlines() if " wrong_account " in line and "o1" in line]
    assert line.split()[:8] == ["3", "open", "wrong_account", "o1", "alice", "3", "1", "d"]


def test_files(run: Run, broken: Path, tmp_path: Path) -> None:
    """The list comes as CSV and as Parquet with all its columns."""
    assert run("breaks", "--data", broken, "--output", tmp_path / "b.parquet").status == 1
    frame = pl.read_parquet(tmp_path / "b.parquet")
    assert (frame.height, frame.schema["deadline_at"]) == (3, pl.Datetime("us", "UTC"))
    assert run("breaks", "--data", broken, "--format", "csv", "--output", tmp_path / "b.csv").status == 1
    assert pl.read_csv(tmp_path / "b.csv")["transactions"].to_list()[0] == '["o1-paid"]'


def test_one_break_with_its_history(run: Run, broken: Path) -> None:
    """`breaks show` says all of one break, and everything that happened to it."""
    said = run("breaks", "show", 1, "--data", broken, "--json")
    assert (said.status, said.document["verdict"]) == (0, "CLEAN")
    assert said.document["break"]["order_id"] == "o4"
    assert [(row["by"], row["to_state"], row["resolution"]) for row in said.document["history"]] == [
        ("reconciliation", "open", None),
        ("reconciliation", "resolved", "late"),
    ]
    words = run("breaks", "show", 2, "--data", broken)
    assert words.status == 1
    assert "break 2: amount_mismatch of order o1" in words.out
    assert "5 points are not where they belong" in words.out
    unknown = run("breaks", "show", 99, "--data", broken)
    assert (unknown.status, unknown.err) == (2, "error: there is no break 99; `breaks` lists those that there are\n")


def test_decisions(run: Run, broken: Path) -> None:
    """A person resolves and reopens, with a reason and a name, and only then is the ledger clean."""
    said = run("breaks", "resolve", 2, 3, "--accept", "--reason", " agreed ", "--by", "eve", "--data", broken, "--json")
    assert said.status == 0
    assert [(row["id"], row["state"], row["resolution"]) for row in said.document["breaks"]] == [
        (2, "resolved", "accepted"),
        (3, "resolved", "accepted"),
    ]
    assert run("breaks", "--data", broken).status == 0
    last = run("breaks", "show", 3, "--data", broken, "--json").document["history"][-1]
    assert (last["by"], last["why"], last["from_state"], last["resolution"]) == ("eve", "agreed", "open", "accepted")
    again = run("breaks", "resolve", 2, "--manual", "--reason", "moved", "--data", broken)
    assert (again.status, "break 2 is resolved already: accepted" in again.err) == (4, True)
    back = run("breaks", "reopen", 2, "--reason", "it was not", "--by", "adam", "--data", broken)
    assert (back.status, "OK: 1 break reopened" in back.out) == (0, True)
    assert run("breaks", "--data", broken).status == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resolve", "2", "--reason", "r"], "a break is either accepted or put right by hand"),
        (["resolve", "2", "--accept", "--manual", "--reason", "r"], "say --accept or --manual"),
        (["resolve", "2", "--accept", "--reason", "  "], "--reason is empty"),
        (["resolve", "2", "--accept", "--reason", "r", "--by", "reconciliation"], "nothing says who decides"),
        (["resolve", "2", "--accept"], "--reason"),
        (["resolve", "99", "--accept", "--reason", "r"], "there is no break 99"),
        (["reopen", "99", "--reason", "r"], "there is no break 99"),
        (["resolve", "2", "--accept", "--reason", "\udcff", "--by", "eve"], "--reason has bytes that are not UTF-8"),
        (["resolve", "2", "--accept", "--reason", "r", "--by", "\udcff"], "--by has bytes that are not UTF-8"),
        (["--code", "odd"], "no break has the code 'odd'; use one of missing_credit_transaction, "),
        (["--status", "odd"], "no break has the status 'odd'"),
        (["--start", "2026-06-01", "--end", "2026-05-01"], "--start is after --end"),
        (["--status", "open", "show", "2"], "--status is not about `show`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_asked(run: Run, broken: Path, words: list[str], said: str) -> None:
    """What is asked wrongly is said in one line, and changes nothing."""
    answer = run("breaks", *words, "--data", broken)
    assert (answer.status, said in answer.err, answer.out) == (2, True, "")
    assert run("breaks", "--data", broken, "--json").document["counts"] == {"pending": 1, "open": 2, "reopened": 0}


def test_nothing_was_reconciled(run: Run, data: Path) -> None:
    """Where nothing was ever reconciled an empty list vouches for nothing."""
    said = run("breaks", "--data", data)
    assert said.status == 3
    assert "nothing was reconciled as a whole yet" in said.out


def test_doubts(run: Run, broken: Path) -> None:
    """Orders of which nothing can be said, and records that cannot be read, are named; the list is incomplete then."""
    store = Store.at(broken)
    with store.writing() as connection:
        connection.execute(insert(ORDERS_WITHHELD).values(order_id="o9", reason="version 2 is missing"))
        connection.execute(
            insert(ORDERS_PARKED).values(partition=1, position=7, order_id="o8", version=None, reason="no such tag")
        )
    store.close()
    said = run("breaks", "--data", broken, "--json")
    assert (said.status, said.document["verdict"]) == (3, "INCOMPLETE")
    assert said.document["withheld"] == [{"order_id": "o9", "reason": "version 2 is missing"}]
    assert [row["position"] for row in said.document["parked_orders"]] == [7]
    words = run("breaks", "--data", broken).out
    assert "nothing can be said of order o9: version 2 is missing" in words
    assert "cannot read the order at partition 1, offset 7 (o8): no such tag" in words
    assert run("breaks", "--order", "o1", "--data", broken).status == 1
    assert run("breaks", "--order", "o9", "--data", broken).status == 3


def test_a_decision_that_the_facts_left_behind_is_told(run: Run, broken: Path) -> None:
    """Where the facts of a decided break changed, the list says so, since nothing reopens it."""
    run("breaks", "resolve", 2, 3, "--manual", "--reason", "moved", "--by", "eve", "--now", NOW, "--data", broken)
    assert "changed after" not in run("breaks", "--data", broken).out
    store = Store.at(broken)
    with store.writing() as connection:
        orders.lock(connection)
        breaks.apply(
            connection, found(mismatch("o1", points=50)), pl.Series(["o1"]), until=at(31), now=at(31), grace_seconds=1e7
        )
    store.close()
    said = run("breaks", "--data", broken)
    assert (said.status, "1 break changed after somebody had resolved it by hand, and still found: 2" in said.out) == (
        1,
        True,
    )
    assert run("breaks", "--data", broken, "--code", "wrong_account").status == 0
    assert run("breaks", "show", 2, "--data", broken).status == 1
    run("breaks", "resolve", 2, "--accept", "--reason", "that too", "--by", "eve", "--data", broken)
    assert run("breaks", "--data", broken).status == 0
    assert run("breaks", "show", 2, "--data", broken).status == 0


@pytest.mark.parametrize("side", ["orders", "ledger"])
def test_a_side_that_was_never_read(run: Run, data: Path, side: orders.Side) -> None:
    """Breaks vouch for nothing while a side was never read whole; which one that is, is said."""
    store = Store.at(data)
    with store.writing() as connection:
        orders.lock(connection)
        breaks.apply(connection, found(mismatch("o1")), None, until=None, now=at(2), grace_seconds=900)
        orders.set_read_until(connection, "ledger" if side == "orders" else "orders", at(3))
    store.close()
    said = run("breaks", "--data", data)
    assert (said.status, f"nothing was reconciled as a whole yet ({side} not read)" in said.out) == (3, True)


def test_orders_that_wait_to_be_judged(run: Run, broken: Path) -> None:
    """Where orders came after the last look, what is known is not all; of another order it is."""
    store = Store.at(broken)
    with store.writing() as connection:
        orders.lock(connection)
        orders.touch(connection, ["o7"])
    said = run("breaks", "--data", broken)
    assert (said.status, "1 order not judged since something came: run `reconcile`" in said.out) == (3, True)
    assert run("breaks", "--order", "o1", "--data", broken).status == 1
    with store.writing() as connection:
        orders.lock(connection)
        orders.set_read_until(connection, "ledger", at(5))
    store.close()
    assert run("breaks", "--data", broken).status == 1


def test_of_what_no_break_is_kept(run: Run, broken: Path) -> None:
    """An order or an account that no break is about is named: it may be misspelt."""
    said = run("breaks", "--order", "o99", "--account", "alice", "--data", broken)
    assert (said.status, "no break of order o99 is kept" in said.out) == (0, True)
    assert "no break of account" not in said.out
    assert "no break of account bob is kept" in run("breaks", "--account", "bob", "--data", broken).out
    assert "is kept" not in run("breaks", "--order", "o4", "--data", broken).out

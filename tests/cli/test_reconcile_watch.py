"""`reconcile --watch` and `watch` with orders: what they find, how they end, and what they serve meanwhile."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from webhooks import until, webhook

from tests.cli.conftest import NOW, START, Run, ledger_of
from tests.cli.processes import asked, configure, metrics, running

LATER = "2026-05-02T00:00:00Z"

ORDERS = """order_id,account_id,points_amount,status,created_at
order-1,alice,30,cancelled,2026-04-01T00:00:00Z
order-2,bob,50,completed,2026-04-01T00:00:00Z
"""


@pytest.fixture
def ordered(run: Run, data: Path, tmp_path: Path) -> Path:
    """The ledger with two orders: one was cancelled and given back, one was never paid."""
    file = tmp_path / "orders.csv"
    file.write_text(ORDERS)
    assert run("import", "orders", file, "--data", data, "--now", NOW).status == 0
    return data


def test_a_round_finds_what_is_wrong_and_the_next_that_it_came_late(run: Run, ordered: Path) -> None:
    """One round opens the break of an order that was never paid; paid late, the next resolves it."""
    said = run("reconcile", "--watch", "--rounds", 1, "--data", ordered, "--now", NOW, "--json")
    assert (said.status, said.document["verdict"], said.document["rounds"]) == (1, "FINDINGS", 1)
    (found,) = said.document["breaks"]
    assert (found["order_id"], found["code"], found["state"]) == ("order-2", "missing_credit_transaction", "open")
    assert found["points_at_risk"] == 50
    events = [json.loads(line)["event"] for line in said.err.splitlines() if line.startswith("{")]
    assert events[0] == "reconciling"
    assert {"break opened", "reconciled"} <= set(events)
    assert run("breaks", "--data", ordered, "--now", NOW).status == 1
    with ledger_of(ordered) as ledger:
        ledger.debit("bob", "bob-3", 50, order_id="order-2", effective_at=START)
    again = run("reconcile", "--watch", "--rounds", 2, "--data", ordered, "--now", LATER, "--json")
    assert (again.status, again.document["verdict"], again.document["breaks"]) == (0, "CLEAN", [])
    history = run("breaks", "show", found["id"], "--data", ordered, "--json").document["history"]
    assert [(row["to_state"], row["resolution"]) for row in history] == [("open", None), ("resolved", "late")]


def test_words(run: Run, ordered: Path) -> None:
    """People read how many rounds there were, and what stands."""
    said = run("reconcile", "--watch", "--rounds", 1, "--data", ordered, "--now", NOW)
    assert "1 whole round here" in said.out
    assert "missing_credit_transaction" in said.out


def test_nothing_to_reconcile(run: Run, data: Path) -> None:
    """Without any order there is nothing to wait for, and that is said at once."""
    said = run("reconcile", "--watch", "--rounds", 1, "--data", data)
    assert (said.status, "no order is known" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--start", "2026-01-01"], "--start is about a single look"),
        (["--business-code", "shop"], "--business-code is about a single look"),
        (["--orders", "x.csv"], "--orders is about a single look"),
        (["--from", "archive"], "there is no source 'archive' here"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_a_watch_cannot_be_told(run: Run, ordered: Path, words: list[str], named: str) -> None:
    """What is about a single look is refused with --watch, and what is about --watch is refused without."""
    said = run("reconcile", "--watch", "--rounds", 1, *words, "--data", ordered)
    assert (said.status, named in said.err) == (2, True)
    for option in (["--rounds", 1], ["--restart"], ["--listen", 0]):
        said = run("reconcile", *option, "--data", ordered)
        assert (said.status, f"{option[0]} is about --watch" in said.err) == (2, True)


def test_its_shadow_is_nobody_elses(run: Run, ordered: Path) -> None:
    """A comparison cannot follow by the shadow of the reconciliation, which would not see those events then."""
    said = run("drift", "--watch", "--rounds", 1, "--shadow", "reconciliation", "--data", ordered)
    assert (said.status, "that of the reconciliation" in said.err) == (2, True)


def test_the_service_does_both(run: Run, ordered: Path) -> None:
    """`watch` compares and reconciles in one process: one endpoint, one answer, and alerts of breaks that stay open."""
    run("project", "--data", ordered)
    with webhook() as server:
        configure(ordered, more=f'[alerts]\nwebhook = "{server.url}"\n[reconcile]\nalert_after_seconds = 0\n')
        with running("watch", "--data", ordered, "--json", "--listen", 0) as watch:
            address = watch.wait_for("listening")["address"]
            watch.wait_for("reconciled")
            watch.wait_for("round finished")
            until(lambda: server.requests)
            until(lambda: asked(address, "/readyz")[0] == 200)
            seen = metrics(address)
            status, out = watch.end()
    assert server.kinds == ["breaks_open"]
    assert server.requests[0].document["first"][0]["order_id"] == "order-2"
    assert seen['ledger_replay_breaks{code="missing_credit_transaction",state="open"}'] == 1
    assert seen["ledger_replay_drifted_accounts"] == 0
    document = json.loads(out)
    assert (status, document["verdict"], document["reconciliation"]) == (1, "EQUAL", "FINDINGS")
    assert [row["order_id"] for row in document["breaks"]] == ["order-2"]


def test_the_service_without_orders_only_compares(run: Run, data: Path) -> None:
    """Where no order is known `watch` says so, and compares."""
    run("project", "--data", data)
    with running("watch", "--data", data, "--json") as watch:
        watch.wait_for("round finished")
        status, out = watch.end()
    assert len(watch.said("no order is known, so nothing is reconciled")) == 1
    document = json.loads(out)
    assert (status, document["verdict"], "breaks" in document) == (0, "EQUAL", False)


def test_the_service_reconciles_from_the_first_order_on(run: Run, data: Path, tmp_path: Path) -> None:
    """A `watch` that runs when the first orders come reconciles them; before that it can be relied on, and says so."""
    run("project", "--data", data)
    file = tmp_path / "orders.csv"
    file.write_text(ORDERS)
    with running("watch", "--data", data, "--json", "--listen", 0) as watch:
        address = watch.wait_for("listening")["address"]
        watch.wait_for("round finished")
        until(lambda: asked(address, "/readyz")[0] == 200)
        assert json.loads(asked(address, "/readyz")[1])["notes"] == ["no order is known, so nothing is reconciled"]
        assert metrics(address)["ledger_replay_reconciling"] == 0
        assert run("import", "orders", file, "--data", data).status == 0
        watch.wait_for("break opened")
        watch.wait_for("reconciled")
        until(lambda: asked(address, "/readyz")[0] == 200)
        assert "notes" not in json.loads(asked(address, "/readyz")[1])
        assert metrics(address)["ledger_replay_reconciling"] == 1
        status, out = watch.end()
    document = json.loads(out)
    assert (status, document["verdict"], document["reconciliation"]) == (1, "EQUAL", "FINDINGS")
    assert [row["order_id"] for row in document["breaks"]] == ["order-2"]


def test_orders_of_files_are_not_those_of_a_topic_that_is_configured(run: Run, ordered: Path) -> None:
    """Where orders came from files and a topic is configured, both are named, and nothing begins."""
    run("project", "--data", ordered)
    configure(ordered, more='[reconcile]\norders_topic = "shop-orders"\n')
    for command in (["reconcile", "--watch", "--rounds", 1], ["watch"]):
        said = run(*command, "--data", ordered)
        assert (said.status, "come from files" in said.err, "'shop-orders'" in said.err) == (2, True, True)


def test_a_topic_that_is_configured_is_read_from_the_first_order_on(run: Run, data: Path) -> None:
    """With a topic configured there is something to wait for, so it is asked for at once."""
    configure(data, more='[reconcile]\norders_topic = "shop-orders"\n')
    said = run("reconcile", "--watch", "--rounds", 1, "--data", data)
    assert (said.status, "bootstrap" in said.err) == (2, True)


def test_what_it_means_to_forget_its_shadow(run: Run, ordered: Path) -> None:
    """Dropping the shadow of the reconciliation says what becomes of one that runs, and that one ends, refused."""
    with running("reconcile", "--watch", "--data", ordered) as watch:
        watch.wait_for("reconciled")
        said = run("drift", "--forget", "--shadow", "reconciliation", "--yes", "--data", ordered)
        assert (said.status, "`reconcile --watch`" in said.out) == (0, True)
        watch.child.wait(60)
        status, _ = watch.end()
    assert status != 0
    assert any("dropped while it was followed" in line for line in watch.other)
    assert run("reconcile", "--watch", "--rounds", 1, "--data", ordered, "--now", NOW).status == 1


def test_it_goes_on_where_it_was(run: Run, ordered: Path) -> None:
    """A reconciliation that was killed goes on from where it was, and finds what came meanwhile."""
    with running("reconcile", "--watch", "--data", ordered, "--json") as first:
        first.wait_for("reconciled")
        first.end(signal.SIGKILL)
    with ledger_of(ordered) as ledger:
        ledger.debit("bob", "bob-3", 50, order_id="order-2", effective_at=START)
    with running("reconcile", "--watch", "--data", ordered, "--json") as second:
        second.wait_for("break resolved")
        second.wait_for("reconciled")
        status, out = second.end()
    assert (status, json.loads(out)["breaks"]) == (0, [])

"""`reconcile --watch` on a real broker: the orders from a topic, and the ledger from another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from order_samples import ORDERS_AT, completed, placed, wire
from topics import delete_topic, make_topic, send

from console.main import main
from ledger import Ledger, Store

pytestmark = pytest.mark.kafka


def test_both_sides_come_from_topics(kafka_server, topic_name, tmp_path: Path, capsys):
    """An order that was paid is in order, one that was not is a break, and what was paid late resolves it."""
    ledger_topic = f"{topic_name}-ledger"
    store = Store.at(tmp_path)
    ledger = Ledger(store, clock=lambda: ORDERS_AT)
    ledger.open("x", effective_at=ORDERS_AT)
    ledger.credit("x", "x-1", 100, effective_at=ORDERS_AT)
    ledger.debit("x", "x-2", 10, order_id="a", effective_at=ORDERS_AT)

    def run(*words: str) -> tuple[int, dict]:
        capsys.readouterr()
        where = ("--data", str(tmp_path), "--bootstrap-servers", kafka_server.bootstrap_servers, "--json")
        status = main([*where, *words])
        return status, json.loads(capsys.readouterr().out)

    make_topic(kafka_server, topic_name, 3)
    send(kafka_server, topic_name, wire([placed("a"), completed("a"), placed("b"), completed("b")]))
    watched = ("reconcile", "--watch", "--rounds", "1", "--from", "topic", "--topic", ledger_topic)
    try:
        assert run("publish", "--topic", ledger_topic, "--partitions", "2")[0] == 0
        assert run("import", "orders", "--from-topic", topic_name)[0] == 0
        status, document = run(*watched)
        assert (status, document["verdict"]) == (1, "FINDINGS")
        assert [(row["order_id"], row["code"]) for row in document["breaks"]] == [("b", "missing_credit_transaction")]
        ledger.debit("x", "x-3", 10, order_id="b", effective_at=ORDERS_AT)
        assert run("publish", "--topic", ledger_topic)[0] == 0
        status, document = run(*watched)
        assert (status, document["verdict"], document["breaks"]) == (0, "CLEAN", [])
        history = run("breaks", "show", "1")[1]["history"]
        states = [(row["to_state"], row["resolution"]) for row in history]
        assert states == [("pending", None), ("open", None), ("resolved", "late")]
    finally:
        store.close()
        delete_topic(kafka_server, ledger_topic)

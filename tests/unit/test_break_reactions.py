"""What is done about breaks: what is logged and measured, when an incident begins and ends, what a webhook hears."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from break_rows_made import at, found, mismatch, of
from sqlalchemy import insert
from watched_fakes import Lines
from webhooks import webhook

from consumers.alerts import AlertSender, Webhook
from consumers.break_alerts import BREAKS, COMPARISON
from consumers.break_metrics import BreakMetrics
from consumers.break_reactions import BreakReactions
from consumers.metrics import LoopMetrics
from consumers.reactions import LOGGED_MAX
from consumers.reconciliation.judging import Judged
from ledger import Store, breaks, incidents
from ledger.order_tables import ORDERS_WITHHELD


class Reacting:
    """Reactions with a clock that is set by hand, and what they left."""

    def __init__(self, store: Store, alert_after_seconds: float = 3_600) -> None:
        self.store = store
        self.time = at(0)
        self.log = Lines()
        self.alerts = 0
        self.loop = LoopMetrics()
        self.metrics = BreakMetrics(self.loop.registry, now=self.now)
        self.reactions = BreakReactions(
            store,
            alert_after_seconds=alert_after_seconds,
            loop_metrics=self.loop,
            metrics=self.metrics,
            log=self.log,
            now=self.now,
            look_seconds=0.0,
        )
        self.reactions.alert_by(self.alert)

    def now(self) -> datetime:
        return self.time

    def alert(self) -> None:
        self.alerts += 1

    def judge(self, *mismatches: dict[str, object], among: tuple[str, ...]) -> None:
        """Judge some orders, and say what came of it."""
        with self.store.writing() as connection:
            changes = breaks.apply(
                connection, found(*mismatches), of(*among), until=self.time, now=self.time, grace_seconds=1e7
            )
        self.reactions.judged(Judged(len(among), 0, (changes,)))

    def look(self, hours: float) -> None:
        """Look at a moment."""
        self.time = at(hours)
        self.reactions.look()

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.loop.registry.get_sample_value(f"ledger_replay_{name}", labels)


def test_what_judging_comes_to_is_logged(store: Store) -> None:
    """A break that opens, is resolved, reopens or changes after a decision is one line each, with what it is about."""
    reacting = Reacting(store)
    reacting.time = at(2)
    reacting.judge(mismatch("o1"), mismatch("o2", deadline=9), among=("o1", "o2"))
    assert reacting.log.of("break opened") == [
        {
            "break": 1,
            "order_id": "o1",
            "code": "amount_mismatch",
            "account_id": "alice",
            "points_at_risk": 5,
            "evidence": "5 points are not where they belong",
        }
    ]
    reacting.judge(among=("o1", "o2"))
    (line,) = reacting.log.of("break resolved")
    assert (line["order_id"], line["resolution"], line["opened_at"]) == ("o1", "late", "2026-05-01T02:00:00.000000Z")
    reacting.judge(mismatch("o1"), among=("o1",))
    assert len(reacting.log.of("break reopened")) == 1
    with store.writing() as connection:
        breaks.resolve(connection, [1], "accepted", by="eve", why="so", now=at(3))
    reacting.judge(mismatch("o1", points=8), among=("o1",))
    assert [line["resolution"] for line in reacting.log.of("a resolved break changed")] == ["accepted"]
    assert reacting.gauge("judged_orders_total") == 6
    assert len(reacting.log.lines) == 4


def test_a_flood_is_told_in_one_line(store: Store) -> None:
    """Of very many breaks at once the first are logged, and how many more there are."""
    reacting = Reacting(store)
    reacting.time = at(2)
    names = [f"o{number}" for number in range(LOGGED_MAX + 7)]
    reacting.judge(*map(mismatch, names), among=tuple(names))
    assert len(reacting.log.of("break opened")) == LOGGED_MAX
    assert reacting.log.of("break opened: more") == [{"breaks": 7}]


def test_metrics_follow_the_table(store: Store) -> None:
    """Breaks by state and code, what is at risk and the oldest age are those of the table; what is gone is 0."""
    reacting = Reacting(store)
    reacting.time = at(2)
    reacting.judge(
        mismatch("o1"), mismatch("o1", "wrong_account", points=3), mismatch("o2", deadline=9), among=("o1", "o2")
    )
    with store.writing() as connection:
        connection.execute(insert(ORDERS_WITHHELD).values(order_id="o9", reason="version 2 is missing"))
    reacting.look(3)
    assert reacting.gauge("breaks", state="open", code="amount_mismatch") == 1
    assert reacting.gauge("breaks", state="pending", code="amount_mismatch") == 1
    assert reacting.gauge("break_points_at_risk", code="amount_mismatch") == 5
    assert reacting.gauge("break_points_at_risk", code="wrong_account") == 3
    assert reacting.gauge("oldest_open_break_age_seconds") == 3_600
    assert (reacting.gauge("withheld_orders"), reacting.gauge("parked_order_records")) == (1, 0)
    reacting.judge(among=("o1", "o2"))
    reacting.look(4)
    assert reacting.gauge("breaks", state="open", code="amount_mismatch") == 0
    assert reacting.gauge("breaks", state="pending", code="amount_mismatch") == 0
    assert reacting.gauge("break_points_at_risk", code="wrong_account") == 0
    assert reacting.gauge("oldest_open_break_age_seconds") == 0


def test_ages_of_what_was_read(store: Store) -> None:
    """Up to when a side was read grows older with the clock; before it was read once, since the start."""
    reacting = Reacting(store)
    reacting.metrics.read_until({"orders": at(1), "ledger": None})
    reacting.time = at(3)
    assert reacting.gauge("reconciliation_read_until_age_seconds", side="orders") == 7_200
    assert reacting.gauge("reconciliation_read_until_age_seconds", side="ledger") == 10_800


def test_an_incident_is_of_what_stays_open(store: Store) -> None:
    """One begins when a break has been open for too long, counts the most at once, and is over when none has."""
    reacting = Reacting(store)
    reacting.time = at(2)
    reacting.judge(mismatch("o1"), among=("o1",))
    reacting.look(2.9)
    assert reacting.log.of("breaks stay open") == []
    reacting.judge(mismatch("o2"), mismatch("o3"), among=("o2", "o3"))
    reacting.look(3)
    assert [(line["breaks"], reacting.alerts) for line in reacting.log.of("breaks stay open")] == [(1, 1)]
    reacting.look(3.9)
    reacting.look(4)
    reacting.judge(among=("o1", "o2"))
    reacting.look(4.1)
    assert (reacting.log.of("no break stays open any more"), reacting.alerts) == ([], 1)
    reacting.judge(among=("o3",))
    reacting.look(4.2)
    (line,) = reacting.log.of("no break stays open any more")
    assert (line["breaks"], line["opened_at"], reacting.alerts) == (3, "2026-05-01T03:00:00.000000Z", 2)
    with store.snapshot() as connection:
        (incident,) = incidents.listed(connection, COMPARISON)
    assert incident.healed_at == "2026-05-01T04:12:00.000000Z"


@pytest.mark.parametrize("hours", [3.5, 1.5])
def test_a_limit_or_a_clock_set_anew_ends_no_incident(store: Store, hours: float) -> None:
    """Neither a longer limit nor a clock that is set back ends an incident while what it told of stands."""
    first, second = Reacting(store), Reacting(store, alert_after_seconds=36_000)
    first.time = at(2)
    first.judge(mismatch("o1"), among=("o1",))
    first.look(3)
    second.look(hours)
    assert second.log.of("no break stays open any more") == []
    second.judge(among=("o1",))
    second.look(4)
    assert len(second.log.of("no break stays open any more")) == 1


def test_a_decision_ends_an_incident(store: Store) -> None:
    """What a person accepted does not stand any more, and a second process goes on with the incident of the first."""
    first, second = Reacting(store), Reacting(store)
    first.time = at(2)
    first.judge(mismatch("o1"), among=("o1",))
    first.look(4)
    second.look(5)
    assert second.log.of("breaks stay open") == []
    with store.writing() as connection:
        breaks.resolve(connection, [1], "accepted", by="eve", why="so", now=at(5))
    second.look(6)
    assert len(second.log.of("no break stays open any more")) == 1
    first.look(7)
    assert first.log.of("no break stays open any more") == []


def test_the_webhook_hears_both(store: Store) -> None:
    """The first alert names what stands, the longest of it first, and the second that nothing has for too long."""
    reacting = Reacting(store)
    reacting.time = at(2)
    reacting.judge(mismatch("o1"), mismatch("o1", "wrong_account", points=3), among=("o1",))
    reacting.time = at(2.5)
    reacting.judge(mismatch("o0", points=7), mismatch("o2", deadline=99), among=("o0", "o2"))
    reacting.look(3)
    with webhook() as server:
        sender = AlertSender(
            store,
            COMPARISON,
            Webhook(url=server.url, interval_seconds=0),
            about=BREAKS,
            told=reacting.reactions.told,
            now=reacting.now,
        )
        assert sender.send_due() == 0.0
        reacting.judge(among=("o0", "o1", "o2"))
        reacting.look(4)
        assert sender.send_due() == 0.0
        assert sender.send_due() is None
        sender.close()
    begun, over = (each.document for each in server.requests)
    assert (begun["kind"], begun["comparison"], begun["breaks"]) == ("breaks_open", "reconciliation", 2)
    assert begun["open"] == {"pending": 1, "open": 3, "reopened": 0}
    assert begun["points_at_risk"] == 12
    assert [(each["order_id"], each["code"]) for each in begun["first"]] == [
        ("o1", "amount_mismatch"),
        ("o1", "wrong_account"),
        ("o0", "amount_mismatch"),
    ]
    assert begun["first"][0]["opened_at"] == "2026-05-01T02:00:00.000000Z"
    assert (over["kind"], over["breaks"], over["first"], over["points_at_risk"]) == ("breaks_resolved", 2, [], 0)
    assert begun["idempotency_key"] != over["idempotency_key"]
    assert reacting.gauge("alerts_total", kind="breaks_open", result="sent") == 1
    assert [line["kind"] for line in reacting.log.of("alert sent")] == ["breaks_open", "breaks_resolved"]


def test_between_two_looks_nothing_is_counted(store: Store) -> None:
    """The table is looked at now and then, and at once after a judgement changed it."""
    reacting = Reacting(store)
    reacting.reactions._look_seconds = 1e9
    reacting.look(1)
    with store.writing() as connection:
        breaks.apply(connection, found(mismatch("o1")), None, until=at(2), now=at(2), grace_seconds=1e7)
    reacting.look(2)
    assert reacting.gauge("breaks", state="open", code="amount_mismatch") is None
    reacting.judge(among=("o2",))
    reacting.look(2)
    assert reacting.gauge("breaks", state="open", code="amount_mismatch") == 1


def test_a_clock_at_the_beginning_of_time(store: Store) -> None:
    """Before the first moment that there is nothing was open, for however long a break may be."""
    reacting = Reacting(store)
    reacting.time = datetime.min.replace(tzinfo=UTC)
    reacting.judge(mismatch("o1"), among=("o1",))
    reacting.reactions.look()
    assert reacting.log.of("breaks stay open") == []

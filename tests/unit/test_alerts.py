"""Alerts to a real HTTP server: each incident is told once when it begins and once when it is over, whatever fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from webhooks import WebhookServer, until, webhook

from consumers.alerts import AlertSender, Attempt, Webhook
from consumers.posting import reason
from ledger import Store, findings, incidents
from ledger.findings import Difference, Keys, Look
from ledger.incidents import Incident
from schemas import format_time

START = datetime(2026, 5, 1, tzinfo=UTC)
ALL = Keys(None, None)


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        return self.moment

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.moment += timedelta(seconds=seconds)


class Sending:
    """A sender with its clock, and what came of its attempts."""

    def __init__(self, store: Store, hook: WebhookServer, **options: object) -> None:
        self.store = store
        self.clock = Clock()
        self.attempts: list[Attempt] = []
        settings = {"headers": {"Authorization": "Bearer hush"}, "interval_seconds": 300.0, "timeout_seconds": 5.0}
        target = Webhook(url=hook.url, **(settings | options))
        self.sender = AlertSender(store, "own", target, told=self.attempts.append, now=self.clock)

    def drift(self, *account_ids: str) -> None:
        """Find these accounts to drift, and all others equal."""
        differences = [
            Difference(name, "balance", "missed_event", "1", "3", "-2", f"{name}:2", "so") for name in account_ids
        ]
        now = format_time(self.clock())
        with self.store.writing() as connection:
            findings.found(connection, "own", Look(differences, [], {}, "12"), among=ALL, now=now)
            incidents.begun(connection, "own", len(account_ids), now=now)
            if not account_ids:
                incidents.healed(connection, "own", now=now)

    def send(self) -> list[str]:
        """Send what is due until nothing is, and return what came of each attempt."""
        before = len(self.attempts)
        while self.sender.send_due() == 0.0:
            pass
        return [f"{attempt.kind} {attempt.result}" for attempt in self.attempts[before:]]

    @property
    def incidents(self) -> list[Incident]:
        """The rows of the queue."""
        with self.store.snapshot() as connection:
            return incidents.listed(connection)


@contextmanager
def sending(store: Store, *statuses: int, **options: object) -> Iterator[tuple[Sending, WebhookServer]]:
    """Yield a sender to a webhook that answers so."""
    headers = options.pop("answers", None)
    with webhook(*statuses, headers=headers) as hook:
        found = Sending(store, hook, **options)
        yield found, hook
        found.sender.close()


def test_one_alert_when_it_begins_and_one_when_it_is_over(store: Store) -> None:
    """Drift that lasts over many looks is told once, with who differs and how, and its end once."""
    with sending(store) as (found, hook):
        for accounts in (["a"], ["a", "b"], ["a", "b"]):
            found.drift(*accounts)
            found.send()
        found.drift()
        assert found.send() == ["healed sent"]
        assert found.send() == []
    assert hook.kinds == ["drift", "healed"]
    first, last = (took.document for took in hook.requests)
    assert (first["comparison"], first["incident"], first["drifted"], first["position"]) == ("own", 1, 1, 12)
    assert first["open"] == {"drifted": 1, "suspected": 0, "uncompared": 0}
    assert first["accounts"] == [
        {
            "account_id": "a",
            "field": "balance",
            "live": 1,
            "replayed": 3,
            "difference": -2,
            "class": "missed_event",
            "first_event": "a:2",
            "evidence": "so",
        }
    ]
    assert (last["incident"], last["drifted"], last["open"]["drifted"]) == (1, 2, 0)
    keys = [took.headers["Idempotency-Key"] for took in hook.requests]
    assert keys == [f"{store.ledger_id}-1-drift", f"{store.ledger_id}-1-healed"]
    assert {took.headers["Authorization"] for took in hook.requests} == {"Bearer hush"}


def test_accounts_that_were_not_compared_take_no_place_of_those_that_drift(store: Store) -> None:
    """However many other findings there are, the alert names the accounts that differ."""
    uncompared = {f"a{number:02}": "a gap" for number in range(20)}
    with sending(store) as (found, hook):
        with store.writing() as connection:
            findings.found(connection, "own", Look([], [], uncompared, "9"), among=ALL, now=format_time(START))
        found.drift("z")
        found.send()
    (took,) = hook.requests
    assert [each["account_id"] for each in took.document["accounts"]] == ["z"]
    assert took.document["position"] == 12


def test_what_another_process_left_is_told_without_being_woken(store: Store) -> None:
    """A sender that had nothing to do looks again after a while: whoever began an incident may have ended."""
    with webhook() as hook:
        sender = AlertSender(store, "own", Webhook(url=hook.url, timeout_seconds=5.0), look_seconds_max=0.05)
        with closing(sender):
            looked = threading.Event()
            real = sender.send_due

            def send_due() -> float | None:
                pause = real()
                looked.set()
                return pause

            sender.send_due = send_due  # type: ignore[method-assign]
            sender.start()
            assert looked.wait(30)
            with store.writing() as connection:
                assert incidents.begun(connection, "own", 1, now=format_time(datetime.now(UTC))) is not None
            until(lambda: hook.kinds == ["drift"])


def test_nothing_is_told_where_nothing_drifts(store: Store) -> None:
    """Without an incident the webhook hears nothing."""
    with sending(store) as (found, hook):
        found.drift()
        assert found.send() == []
        assert hook.requests == []


def test_a_webhook_that_fails_is_tried_again_with_growing_pauses(store: Store) -> None:
    """500, 503, 408, 429 and a connection that breaks are each tried again later, with one key, until it is taken."""
    with sending(store, 500, 503, 408, 429, 0) as (found, hook):
        found.drift("a")
        pauses = []
        for _ in range(5):
            assert found.send() == ["drift failed"]
            (incident,) = found.incidents
            assert incident.next_attempt_at is not None
            pause = datetime.fromisoformat(incident.next_attempt_at) - found.clock()
            assert found.send() == []
            pauses.append(pause.total_seconds())
            found.clock.later(pause.total_seconds())
        assert found.send() == ["drift sent"]
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses)), pauses
    assert len({took.headers["Idempotency-Key"] for took in hook.requests}) == 1
    assert [attempt.error for attempt in found.attempts[:2]] == [
        "the webhook answered 500 Internal Server Error",
        "the webhook answered 503 Service Unavailable",
    ]
    (incident,) = found.incidents
    assert (incident.attempts, incident.error, incident.next_attempt_at) == (0, None, None)


@pytest.mark.parametrize("value", ["7200", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_is_honoured(store: Store, value: str) -> None:
    """A webhook that says when to come back is left alone until then, but for no longer than six hours."""
    with sending(store, 429, answers={"Retry-After": value}) as (found, _):
        found.drift("a")
        found.send()
        (incident,) = found.incidents
        seconds = 7_200 if value.isdecimal() else 21_600
        assert incident.next_attempt_at == format_time(START + timedelta(seconds=seconds))
        found.clock.later(seconds - 1)
        assert found.send() == []
        found.clock.later(1)
        assert found.send() == ["drift sent"]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410])
def test_what_is_refused_is_not_sent_for_ever(store: Store, status: int) -> None:
    """A refusal or a redirect is said, kept with the incident, and tried again by the next process only."""
    answers = {"Location": "http://127.0.0.1:9/"}
    with sending(store, status, status, answers=answers) as (found, hook):
        found.drift("a")
        assert found.send() == ["drift refused"]
        found.clock.later(1_000_000)
        assert found.send() == []
        (incident,) = found.incidents
        assert incident.error is not None
        assert str(status) in incident.error
        assert len(hook.requests) == 1
        with store.writing() as connection:
            incidents.try_again(connection, "own")
        assert found.send() == ["drift refused"]
        with store.writing() as connection:
            incidents.try_again(connection, "own")
        assert found.send() == ["drift sent"]


def test_incidents_are_told_no_closer_than_the_interval(store: Store) -> None:
    """Drift that comes and goes is told at most once an interval, and the next alert names what was over by then."""
    with sending(store) as (found, hook):
        for _ in range(5):
            found.drift("a")
            found.send()
            found.clock.later(10)
            found.drift()
            found.send()
            found.clock.later(10)
        assert hook.kinds == ["drift", "healed"]
        found.clock.later(300)
        assert found.send() == ["drift sent", "healed sent"]
        assert found.send() == []
    late = hook.requests[2].document
    assert (late["incident"], [each["id"] for each in late["earlier"]]) == (5, [2, 3, 4])
    assert all(each["healed_at"] for each in late["earlier"])


def test_an_alert_outlives_its_process(store: Store) -> None:
    """What a process could not tell before it ended is told by the next one."""
    with sending(store, 500) as (found, hook):
        found.drift("a")
        assert found.send() == ["drift failed"]
        second = Sending(store, hook)
        second.clock.later(60)
        assert second.send() == ["drift sent"]
        second.sender.close()


def test_of_two_processes_one_sends(store: Store) -> None:
    """While one process waits for the webhook's answer, another does not send the same alert."""
    with sending(store) as (found, hook):
        other = Sending(store, hook)
        found.drift("a")
        hook.gate.clear()
        found.sender.start()
        until(lambda: hook.requests)
        assert other.send() == []
        hook.gate.set()
        until(lambda: found.attempts)
        assert other.send() == []
        other.sender.close()
    assert hook.kinds == ["drift"]


def test_a_process_that_dies_while_it_sends_leaves_the_alert(store: Store) -> None:
    """An alert whose sender never came back is sent again after a while, with the same key."""
    with sending(store) as (found, hook):
        found.drift("a")
        with store.writing() as connection:
            (incident,) = incidents.listed(connection)
            assert incidents.claim(connection, incident, until=format_time(START + timedelta(seconds=20)))
        assert found.send() == []
        found.clock.later(20)
        assert found.send() == ["drift sent"]
    assert hook.kinds == ["drift"]


def test_a_slow_webhook_holds_nobody_up(store: Store) -> None:
    """A webhook that does not answer in time is a failure, and the sender goes on."""
    with sending(store, timeout_seconds=0.05) as (found, hook):
        hook.gate.clear()
        found.drift("a")
        assert found.send() == ["drift failed"]
        hook.gate.set()
        found.clock.later(60)
        assert found.send() == ["drift sent"]


def test_nobody_listens(store: Store) -> None:
    """A webhook that is not there is a failure that does not name its path, which may be a secret."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        hook = WebhookServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}/hooks/secret-path")
        found = Sending(store, hook)
        found.drift("a")
        assert found.send() == ["drift failed"]
        said = reason(ValueError(f"cannot reach {hook.url}, /hooks/secret-path"), hook.url)
        found.sender.close()
    assert said == "ValueError: cannot reach the webhook, /..."
    assert "secret-path" not in str(found.attempts)
    assert "secret-path" not in repr(Webhook(url=hook.url))


def test_the_thread_sends_and_ends(store: Store) -> None:
    """The thread of a sender tells what is due when it is woken, and once more what is due when it is closed."""
    with sending(store, interval_seconds=0.0) as (found, hook):
        found.sender.start()
        found.drift("a")
        found.sender.wake()
        until(lambda: hook.kinds == ["drift"])
        until(lambda: len(found.attempts) == 1)
        found.drift()
        found.sender.close()
        assert hook.kinds == ["drift", "healed"]


def test_the_sender_outlives_a_database_that_does_not_answer(tmp_path: Path) -> None:
    """Where the database fails, the sender says so and does not end."""
    store = Store.at(tmp_path)
    words: list[str] = []
    with webhook() as hook:
        sender = AlertSender(store, "own", Webhook(url=hook.url), unwell=words.append)
        with store.writing() as connection:
            connection.exec_driver_sql("DROP TABLE ledger_incidents")
        sender.start()
        until(lambda: words)
        sender.close()
    store.close()
    assert "no such table" in words[0]


def test_a_sender_that_cannot_go_on_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw ends the thread loudly, and closing the sender does not hang."""
    store = Store.at(tmp_path)
    words: list[str] = []
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    sender = AlertSender(store, "own", Webhook(url="http://127.0.0.1:9/"), unwell=words.append, now=lambda: 1 / 0)
    with store.writing() as connection:
        assert incidents.begun(connection, "own", 1, now="t1") is not None
    sender.start()
    until(lambda: words)
    sender.close()
    store.close()
    assert "ZeroDivisionError" in words[0]
    assert len(seen) == 1

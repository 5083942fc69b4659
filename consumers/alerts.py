"""Alerts: tells a webhook when drift or breaks begin and when they are over, each once, whatever fails meanwhile.

The rows of `ledger_incidents` are the queue, so that nothing is lost by a restart, and of two processes one sends. An
alert is sent until the webhook takes it, with growing pauses; its `Idempotency-Key` is the same each time, since an
answer can be lost on its way. What the webhook refuses (a 4xx other than 408 and 429, or a redirect) is not sent
again before the next start: that is said loudly, and the reason stands in the row.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import urllib3
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from consumers.differences import drifted_of
from consumers.posting import Posted, Result, post
from ledger import findings, incidents
from ledger.incidents import Alert, Incident, Kind
from ledger.store import Store
from schemas import format_time

__all__ = ["DRIFT", "NAMED_MAX", "About", "AlertSender", "Attempt", "Result", "Webhook"]

#: Differences or breaks that an alert names; all of them are in their table.
NAMED_MAX = 10

BACKOFF_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 300.0

#: How soon the queue is looked at again when the database did not answer.
DATABASE_PAUSE_SECONDS = 5.0

#: How soon it is looked at again in any case: another process may have put something there and ended.
LOOK_SECONDS_MAX = 15.0


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where alerts go; `headers` may hold secrets, and the URL may be one.

    `interval_seconds` is the least time between the alerts of two incidents, `timeout_seconds` how long the webhook may
    take to connect and then to answer.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    interval_seconds: float = 300.0
    timeout_seconds: float = 10.0


class About(NamedTuple):
    """What alerts are about: what each kind is called, what an incident counts, and what else an alert says of one."""

    kinds: Mapping[Kind, str]
    counted: str
    content: Callable[[Connection, Incident], Mapping[str, object]]


def _drift(connection: Connection, incident: Incident) -> Mapping[str, object]:
    """Return how many accounts differ now, and the first differences that were seen since an incident began."""
    named = findings.listed(
        connection,
        incident.comparison,
        states=("drift", "healed"),
        seen_since=incident.opened_at,
        is_explained=True,
        first=NAMED_MAX,
    )
    return {
        "open": findings.counts(connection, incident.comparison)._asdict(),
        "accounts": [drifted_of(each) for each in named],
        "position": msgspec.Raw(named[0].position.encode()) if named else None,
    }


#: Alerts of a comparison of live with a shadow.
DRIFT = About({"drift": "drift", "healed": "healed"}, "drifted", _drift)


class Attempt(NamedTuple):
    """What came of one attempt to tell; `error` says why it failed, `again_at` when the next one is due."""

    kind: str
    incident: int
    result: Result
    error: str | None
    again_at: str | None


class AlertSender:
    """Sends what is due of one comparison, in a thread of its own; nobody waits for it but `close`.

    `told` hears in that thread of every attempt; `unwell` hears why none is made: the database does not answer, say.
    """

    def __init__(
        self,
        store: Store,
        comparison: str,
        webhook: Webhook,
        *,
        about: About = DRIFT,
        told: Callable[[Attempt], None] = lambda _: None,
        unwell: Callable[[str], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        backoff_seconds: float = BACKOFF_SECONDS,
        look_seconds_max: float = LOOK_SECONDS_MAX,
    ) -> None:
        self._store = store
        self._comparison = comparison
        self._webhook = webhook
        self._about = about
        self._told = told
        self._unwell = unwell
        self._now = now
        self._backoff_seconds = backoff_seconds
        self._look_seconds_max = look_seconds_max
        self._client = urllib3.PoolManager(num_pools=1, retries=False, timeout=webhook.timeout_seconds)
        self._stop = threading.Event()
        self._wake = threading.Event()
        # A webhook that does not answer must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin to send; what an earlier process was refused is tried once more."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now: something may be due."""
        self._wake.set()

    def close(self) -> None:
        """Try once more what is due, and stop; what is not told by then stays for the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(2 * self._webhook.timeout_seconds + 1)
        self._client.clear()

    def send_due(self) -> float | None:
        """Tell what is due now, and return in how many seconds something else may be; None where nothing waits."""
        with self._store.snapshot() as connection:
            alert = incidents.due(connection, self._comparison)
            last = incidents.told_last(connection, self._comparison)
        if alert is None or _is_given_up(alert.incident):
            return None
        wait = (self._not_before(alert, last) - self._now()).total_seconds()
        if wait > 0:
            return wait
        body = self._claimed(alert)
        if body is None:
            return self._backoff_seconds
        self._note(alert, self._post(alert, body))
        return 0.0

    def _run(self) -> None:
        try:
            self._send_until_stopped()
            self._last()
        except Exception as error:
            self._unwell(f"no more alerts are sent before the next start: {type(error).__name__}: {error}")
            raise

    def _send_until_stopped(self) -> None:
        is_begun = False
        while not self._stop.is_set():
            try:
                if not is_begun:
                    with self._store.writing() as connection:
                        incidents.try_again(connection, self._comparison)
                    is_begun = True
                pause = self.send_due()
            except SQLAlchemyError as error:
                self._unwell(str(getattr(error, "orig", None) or error).splitlines()[0])
                pause = DATABASE_PAUSE_SECONDS
            self._wake.wait(self._look_seconds_max if pause is None else min(pause, self._look_seconds_max))
            self._wake.clear()

    def _last(self) -> None:
        try:
            self.send_due()
        except SQLAlchemyError as error:
            self._unwell(str(getattr(error, "orig", None) or error).splitlines()[0])

    def _not_before(self, alert: Alert, last: str | None) -> datetime:
        moments = [datetime.min.replace(tzinfo=UTC)]
        if alert.incident.next_attempt_at is not None:
            moments.append(datetime.fromisoformat(alert.incident.next_attempt_at))
        if alert.kind == "drift" and last is not None:
            moments.append(datetime.fromisoformat(last) + timedelta(seconds=self._webhook.interval_seconds))
        return max(moments)

    def _claimed(self, alert: Alert) -> bytes | None:
        """Take this attempt and return what to send; None where another process took it."""
        dies_at = self._now() + timedelta(seconds=4 * self._webhook.timeout_seconds)
        with self._store.writing() as connection:
            if not incidents.claim(connection, alert.incident, until=format_time(dies_at)):
                return None
            content = self._about.content(connection, alert.incident)
        return msgspec.json.encode(self._document(alert, content))

    def _document(self, alert: Alert, content: Mapping[str, object]) -> dict[str, object]:
        incident, counted = alert.incident, self._about.counted
        return {
            "kind": self._about.kinds[alert.kind],
            "incident": incident.id,
            "idempotency_key": self._key(alert),
            "ledger_id": self._store.ledger_id,
            "comparison": incident.comparison,
            "opened_at": incident.opened_at,
            "healed_at": incident.healed_at,
            counted: incident.drifted,
            **content,
            "earlier": [
                {"id": each.id, "opened_at": each.opened_at, "healed_at": each.healed_at, counted: each.drifted}
                for each in alert.earlier
            ],
        }

    def _key(self, alert: Alert) -> str:
        return f"{self._store.ledger_id}-{alert.incident.id}-{self._about.kinds[alert.kind]}"

    def _post(self, alert: Alert, body: bytes) -> Posted:
        return post(self._client, self._webhook.url, body, key=self._key(alert), headers=self._webhook.headers)

    def _note(self, alert: Alert, answer: Posted) -> None:
        now = self._now()
        again_at = None
        if answer.result == "failed":
            pause = min(self._backoff_seconds * 2**alert.incident.attempts, BACKOFF_SECONDS_MAX)
            # Each waits another time, so that many that failed at once do not come back at once.
            pause *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it.
            again_at = format_time(now + timedelta(seconds=max(pause, answer.retry_after_seconds or 0.0)))
        with self._store.writing() as connection:
            if answer.result == "sent":
                incidents.note_told(connection, alert, now=format_time(now))
            else:
                incidents.untold(connection, alert.incident, answer.error or "", again_at=again_at)
        self._told(Attempt(self._about.kinds[alert.kind], alert.incident.id, answer.result, answer.error, again_at))


def _is_given_up(incident: Incident) -> bool:
    return incident.error is not None and incident.next_attempt_at is None

"""What is done about what a comparison finds: the tables of findings and incidents, log lines, metrics, alerts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec
from sqlalchemy import Connection

from consumers.alerts import Attempt
from consumers.differences import difference_of
from consumers.metrics import Metrics
from ledger import findings, incidents
from ledger.findings import Changes, Counts, Finding, Keys, Look
from ledger.incidents import Incident
from ledger.store import Store
from replay.certificate import Position
from replay.comparison.chunk import Chunk, Settled
from schemas import format_time

__all__ = ["LOGGED_MAX", "Log", "Reactions", "log_attempt"]

#: Findings of one kind that one look may log a line each of; all of them are in the table.
LOGGED_MAX = 100
#: Suspected accounts that the line of a look names.
NAMED_MAX = 10


class Log(Protocol):
    """What log lines go to: what happened in a few words, and its values by name."""

    def info(self, event: str, **values: object) -> object:
        """Say that something happened."""

    def warning(self, event: str, **values: object) -> object:
        """Say that somebody should look at something."""

    def error(self, event: str, **values: object) -> object:
        """Say that something does not work."""


class _Noted(NamedTuple):
    changes: Changes
    counts: Counts
    begun: Incident | None
    is_unheard: bool


class Reactions:
    """Takes note of what one comparison finds, each thing once, and tells who should know.

    `note` and `note_settled` write within the caller's transaction; once that is committed, `say` says what they noted.
    """

    def __init__(
        self,
        store: Store,
        comparison: str,
        *,
        metrics: Metrics,
        log: Log,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._comparison = comparison
        self._metrics = metrics
        self._log = log
        self._now = now
        self._alert: Callable[[], None] = lambda: None
        self._noted: _Noted | None = None

    def alert_by(self, alert: Callable[[], None]) -> None:
        """Call `alert` from now on when something may be due for the webhook."""
        self._alert = alert

    def counts(self) -> Counts:
        """Return how many accounts have open findings, as the table has them now."""
        with self._store.snapshot() as connection:
            found = findings.counts(connection, self._comparison)
        self._metrics.counted(found)
        return found

    def note(self, connection: Connection, chunk: Chunk, after: str | None) -> None:
        """Write down a chunk that began behind the key `after`."""
        reasons = {each.account_id: each.reason for each in chunk.uncompared}
        differences = [difference_of(each) for each in chunk.drifted]
        look = Look(differences, chunk.suspected, reasons, _json(chunk.position))
        self._note(connection, look, Keys(after, chunk.until))

    def note_settled(self, connection: Connection, settled: Settled, position: Position) -> None:
        """Write down what became of suspected accounts."""
        reasons = {each.account_id: each.reason for each in settled.uncompared}
        differences = [difference_of(each) for each in settled.drifted]
        look = Look(differences, [], reasons, _json(position))
        among = sorted({*(each.account_id for each in differences), *settled.same, *reasons})
        self._note(connection, look, among)

    def say(self) -> Counts:
        """Say what was noted last, which is certain by now, and return how many accounts have open findings."""
        noted, self._noted = self._noted, None
        if noted is None:
            return self.counts()
        self._metrics.counted(noted.counts)
        self._say(noted.changes)
        if noted.begun is not None:
            self._log.warning("incident begun", incident=noted.begun.id, drifted=noted.begun.drifted)
        if noted.is_unheard:
            # Whoever began it may have ended before anybody was told.
            self._alert()
        return noted.counts

    def round_found_none(self) -> None:
        """End the incident, if there is one: a whole round found no drift."""
        now = format_time(self._now())
        with self._store.writing() as connection:
            healed = incidents.healed(connection, self._comparison, now=now)
        if healed is not None:
            self._log.info("incident over", incident=healed.id, opened_at=healed.opened_at, drifted=healed.drifted)
            self._alert()

    def told(self, attempt: Attempt) -> None:
        """Take note of an attempt to tell the webhook; called by the thread that sends."""
        self._metrics.alerts.labels(attempt.kind, attempt.result).inc()
        log_attempt(self._log, attempt)

    def _note(self, connection: Connection, look: Look, among: Keys | Sequence[str]) -> None:
        now = format_time(self._now())
        changes = findings.found(connection, self._comparison, look, among=among, now=now)
        counts = findings.counts(connection, self._comparison)
        begun = incidents.begun(connection, self._comparison, counts.drifted, now=now)
        self._noted = _Noted(changes, counts, begun, incidents.is_unheard(connection, self._comparison))

    def _say(self, changes: Changes) -> None:
        log = self._log
        self._each(log.warning, "drift found", changes.drifted, ("field", "live", "replayed", "cause", "first_event"))
        if changes.suspected:
            # On a busy table there are many, of which most come to nothing: one line for all of a look.
            first = [each.account_id for each in changes.suspected[:NAMED_MAX]]
            log.info("suspected", accounts=len(changes.suspected), first=first)
        self._each(log.warning, "not compared", changes.uncompared, ("evidence",))
        self._each(log.info, "healed", changes.healed, ("field", "cause", "opened_at"))

    def _each(self, say: Callable[..., object], event: str, found: Sequence[Finding], names: tuple[str, ...]) -> None:
        for each in found[:LOGGED_MAX]:
            values = {_WORDS.get(name, name): getattr(each, name) for name in names}
            say(event, account_id=each.account_id, **values)
        if len(found) > LOGGED_MAX:
            say(f"{event}: more", findings=len(found) - LOGGED_MAX)


#: What log lines call the columns of the table that have another name here.
_WORDS = {"cause": "class", "evidence": "reason"}


def log_attempt(log: Log, attempt: Attempt) -> None:
    """Say what came of an attempt to tell the webhook."""
    values = {"kind": attempt.kind, "incident": attempt.incident}
    if attempt.result == "sent":
        log.info("alert sent", **values)
    elif attempt.result == "failed":
        log.warning("alert failed", error=attempt.error, again_at=attempt.again_at, **values)
    else:
        advice = "correct [alerts] in the TOML file and start again"
        log.error("alert refused, and not sent again", error=attempt.error, next_step=advice, **values)


def _json(position: Position) -> str:
    return msgspec.json.encode(position).decode()

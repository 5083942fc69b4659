"""The webhook of what runs for ever: as the TOML file says, and a sender of alerts beside the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

from consumers.alerts import DRIFT, About, AlertSender, Webhook

if TYPE_CHECKING:
    from console.run import Run
    from consumers.alerts import Attempt
    from consumers.reactions import Log
    from ledger.store import Store

__all__ = ["Alerted", "alerting", "configured_webhook"]


class Alerted(Protocol):
    """What says that something is due, and hears what came of it."""

    def alert_by(self, alert: Callable[[], None]) -> None:
        """Call `alert` from now on when something may be due for the webhook."""

    def told(self, attempt: Attempt) -> None:
        """Take note of an attempt."""


def configured_webhook(run: Run) -> Webhook | None:
    """Return the webhook of the configuration, None where there is none; ConfigurationError where it is wrong."""
    alerts = run.settings.alerts
    url = alerts.url()
    if url is None:
        return None
    return Webhook(
        url=url,
        headers=alerts.header_values(),
        interval_seconds=alerts.interval_seconds,
        timeout_seconds=alerts.timeout_seconds,
    )


@contextmanager
def alerting(
    store: Store, comparison: str, webhook: Webhook, alerted: Alerted, log: Log, *, about: About = DRIFT
) -> Iterator[None]:
    """Send the alerts of a comparison meanwhile."""

    def unwell(words: str) -> None:
        log.error("alerts are not sent", error=words)

    sender = AlertSender(store, comparison, webhook, about=about, told=alerted.told, unwell=unwell)
    with closing(sender):
        alerted.alert_by(sender.wake)
        sender.start()
        yield

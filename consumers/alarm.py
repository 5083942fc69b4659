"""The alarm of a command that ends soon after: tells the webhook of one thing, now, or says why it could not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

import msgspec
import urllib3

from consumers.alerts import Webhook
from consumers.posting import post

__all__ = ["tell"]

ATTEMPTS = 3
PAUSE_SECONDS = 1.0

#: Whoever raises an alarm waits for it: a webhook that asks for more is not told.
PAUSE_SECONDS_MAX = 10.0


def tell(
    webhook: Webhook, kind: str, content: Mapping[str, object], *, pause_seconds: float = PAUSE_SECONDS
) -> str | None:
    """Tell the webhook, a few times where it may help, and return why it did not take it; None where it did.

    The document is the content with its `kind` and `idempotency_key`, which is the same for equal content, so that a
    webhook that is told again after a restart knows it. `content` is what msgspec makes JSON of.
    """
    key = hashlib.sha256(msgspec.json.encode([kind, content], order="sorted")).hexdigest()
    body = msgspec.json.encode({"kind": kind, "idempotency_key": key, **content})
    client = urllib3.PoolManager(num_pools=1, retries=False, timeout=webhook.timeout_seconds)
    try:
        for attempt in range(ATTEMPTS):
            answer = post(client, webhook.url, body, key=key, headers=webhook.headers)
            if answer.result != "failed" or attempt == ATTEMPTS - 1:
                break
            pause = max(pause_seconds * 2**attempt, answer.retry_after_seconds or 0.0)
            time.sleep(min(pause, PAUSE_SECONDS_MAX))
    finally:
        client.clear()
    return answer.error

"""Posting a JSON document to a webhook, and what came of it in words that give no secret away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader

__all__ = ["Posted", "Result", "post", "reason"]

#: `failed` may go well another time, `refused` will not before somebody changes something.
Result = Literal["sent", "failed", "refused"]

#: The longest that a webhook may ask to be left alone.
RETRY_AFTER_SECONDS_MAX = 21_600.0


class Posted(NamedTuple):
    """What came of it: `error` says why it was not taken, without the path of the URL."""

    result: Result
    error: str | None = None
    retry_after_seconds: float | None = None


def post(client: urllib3.PoolManager, url: str, body: bytes, *, key: str, headers: Mapping[str, str]) -> Posted:
    """Post a JSON document once; `key` tells the webhook that it is the same document again.

    Only an answer of 2xx is success. 408, 429 and 5xx may go well later; any other answer, a redirect too, refuses it.
    """
    every = {"Content-Type": "application/json", "Idempotency-Key": key, **headers}
    try:
        answer = client.request("POST", url, body=body, headers=every, redirect=False, preload_content=False)
    except (HTTPError, OSError, ValueError) as error:
        return Posted("failed", reason(error, url))
    # What it has to say does not matter, and may be without an end.
    answer.close()
    if 200 <= answer.status < 300:
        return Posted("sent")
    words = f"the webhook answered {answer.status} {answer.reason or ''}".strip()
    if answer.status in (408, 429) or answer.status >= 500:
        return Posted("failed", words, _retry_after(answer.headers.get("Retry-After")))
    return Posted("refused", words)


def reason(error: Exception, url: str) -> str:
    """Return an error without the path of the webhook, which is a secret with many services."""
    words = f"{type(error).__name__}: {error}".replace(url, "the webhook")
    path = urllib3.util.parse_url(url).request_uri
    return words.replace(path, "/...") if len(path) > 1 else words


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = urllib3.Retry().parse_retry_after(value)
    except InvalidHeader:
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)

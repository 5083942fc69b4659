"""The alarm of a command that ends soon: told once, tried a few times, and never the reason that the command fails."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import pytest
from webhooks import WebhookServer, webhook

from consumers.alarm import ATTEMPTS, tell
from consumers.alerts import Webhook


def alarm(server: WebhookServer, **content: object) -> str | None:
    """Tell a webhook without long pauses."""
    return tell(Webhook(url=server.url, headers={"X-Token": "s3cret"}), "test", content, pause_seconds=0.001)


def test_it_is_told_once() -> None:
    """The webhook gets kind, key and content, and that it took it is nothing to report."""
    with webhook(201) as server:
        assert alarm(server, run="r", at=datetime(2026, 5, 1, tzinfo=UTC), accounts=["a"]) is None
    (took,) = server.requests
    assert took.document == {
        "kind": "test",
        "idempotency_key": took.headers["Idempotency-Key"],
        "run": "r",
        "at": "2026-05-01T00:00:00Z",
        "accounts": ["a"],
    }
    assert took.headers["X-Token"] == "s3cret"


def test_equal_alarms_have_equal_keys() -> None:
    """The same alarm after a restart is known by its key, whatever the order of its fields; another one is not."""
    with webhook() as server:
        alarm(server, run="r", accounts=1)
        alarm(server, accounts=1, run="r")
        alarm(server, run="r", accounts=2)
    keys = [took.headers["Idempotency-Key"] for took in server.requests]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("status", [500, 503, 429, 408, 0])
def test_what_may_help_is_tried_again(status: int) -> None:
    """A webhook that is not well for a moment gets the same alarm again, under the same key."""
    with webhook(*[status] * (ATTEMPTS - 1)) as server:
        assert alarm(server, run="r") is None
    assert len(server.requests) == ATTEMPTS
    assert len({took.headers["Idempotency-Key"] for took in server.requests}) == 1


def test_it_gives_up_and_says_why() -> None:
    """After a few attempts the reason is returned, not raised."""
    with webhook(*[500] * 9) as server:
        assert alarm(server, run="r") == "the webhook answered 500 Internal Server Error"
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize("status", [400, 403, 301])
def test_a_refusal_is_final(status: int) -> None:
    """What the webhook refuses is not sent again."""
    with webhook(status, headers={"Location": "/"}) as server:
        assert f"answered {status}" in str(alarm(server, run="r"))
    assert len(server.requests) == 1


def test_nobody_listens() -> None:
    """A webhook that is not there is a reason without its path, which may be a secret."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said = alarm(WebhookServer(url=f"http://127.0.0.1:{taken.getsockname()[1]}/hooks/secret-path"))
    assert said
    assert "secret-path" not in said

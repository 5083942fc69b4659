"""A real webhook for tests: an HTTP server on loopback that takes alerts, or answers as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Took", "WebhookServer", "until", "webhook"]

#: How long a test waits for what must come before it fails.
SECONDS_MAX = 60


@dataclass(frozen=True)
class Took:
    """One request that came: its headers, and its document."""

    headers: dict[str, str]
    document: dict[str, Any]


@dataclass
class WebhookServer:
    """What came, and what is answered: a status each time, then 204 for ever; 0 closes without an answer.

    `headers` go with every answer that is no 2xx. While `gate` is not set, nothing is answered.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Took] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @property
    def kinds(self) -> list[str]:
        """What each request was about."""
        return [took.document["kind"] for took in self.requests]


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds; fail where it never does."""
    end = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@contextmanager
def webhook(*statuses: int, headers: dict[str, str] | None = None, port: int = 0) -> Iterator[WebhookServer]:
    """Yield a webhook that answers these statuses in turn."""
    state = WebhookServer(statuses=list(statuses), headers=headers or {})
    state.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests.append(Took(dict(self.headers), json.loads(body)))
            state.gate.wait(SECONDS_MAX)
            status = state.statuses.pop(0) if state.statuses else 204
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in state.headers.items() if status >= 300 else ():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    state.url = f"http://127.0.0.1:{server.server_port}/hooks/secret-path"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()

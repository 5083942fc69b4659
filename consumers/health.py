"""The endpoint of what runs for ever: /metrics, /healthz (it moves) and /readyz (it can be relied on)."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Health", "application", "serving"]

LOOPBACK = "127.0.0.1"

#: The longest that a client may take to ask.
REQUEST_SECONDS_MAX = 10


class Health:
    """Whether the loop moves, and whether what it says can be relied on; read by other threads.

    `healthy_seconds` is how long the loop may go without a step. It starts as alive and not ready.
    """

    def __init__(self, *, healthy_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._healthy_seconds = healthy_seconds
        self._clock = clock
        self._stepped_at = clock()
        self._not_ready: str | None = "the shadow has not caught up yet"
        self._waits_for: dict[str, str] = {}
        self._note: str | None = None

    def stepped(self) -> None:
        """Take note that the loop moves, if only to wait for something."""
        self._stepped_at = self._clock()

    def ready(self, why_not: str | None) -> None:
        """Take note that all answers and the shadow has caught up once, or why not."""
        self._not_ready = why_not

    def waits_for(self, why: str | None, *, source: str = "events") -> None:
        """Take note of why a source keeps the loop waiting, None where it answers."""
        # Other threads read it meanwhile, so it is made anew.
        others = {name: reason for name, reason in self._waits_for.items() if name != source}
        self._waits_for = others if why is None else {**others, source: why}

    def note(self, words: str | None) -> None:
        """Take note of what whoever asks for readiness is told beside it, None for nothing."""
        self._note = words

    @property
    def notes(self) -> list[str]:
        """What is told beside readiness."""
        return [] if self._note is None else [self._note]

    @property
    def why_unhealthy(self) -> str | None:
        """Why the loop is taken for stuck, None where it is not."""
        age = self._clock() - self._stepped_at
        return None if age <= self._healthy_seconds else f"the loop made no step for {age:.0f} seconds"

    @property
    def why_not_ready(self) -> str | None:
        """Why nobody should rely on it, None where they can."""
        return self.why_unhealthy or next(iter(self._waits_for.values()), None) or self._not_ready


def application(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """Return the endpoint as a WSGI application."""
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/healthz":
            return _says(health.why_unhealthy, start_response)
        if path == "/readyz":
            return _says(health.why_not_ready, start_response, health.notes)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there are /metrics, /healthz and /readyz\n"]

    return answer


def _says(why_not: str | None, start_response: StartResponse, notes: list[str] | None = None) -> Iterable[bytes]:
    start_response("200 OK" if why_not is None else "503 Service Unavailable", [("Content-Type", "application/json")])
    told = {"ok": why_not is None, "why_not": why_not, **({"notes": notes} if notes else {})}
    return [msgspec.json.encode(told) + b"\n"]


@contextmanager
def serving(listen: str, app: WSGIApplication) -> Iterator[str]:
    """Serve an application at `HOST:PORT`, or at a port of this machine, in threads; yield the address it got.

    Port 0 takes any that is free. ConfigurationError where the address cannot be had.
    """
    host, port = _address(listen)
    try:
        server = _server(host, port)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen: {error.strerror or error}",
            where=f"--listen {listen}",
            next_step="choose another port, or end the process that has it",
        ) from error
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="endpoint", daemon=True)
    thread.start()
    try:
        yield f"{f'[{host}]' if ':' in host else host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    # Whoever asks slowly holds up neither others nor the end.
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Take the address as it was given: to ask for this machine's full name can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away or was too slow."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # the server's own values.


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS_MAX

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line for each look at the metrics would hide the others."""


def _server(host: str, port: int) -> _Server:
    kind = _Server6 if ":" in host else _Server
    return kind((host, port), _Handler)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(
            f"{listen!r} is no address to listen at", next_step="write HOST:PORT, or only the port for this machine"
        )
    return host.strip("[]") or LOOPBACK, int(port)

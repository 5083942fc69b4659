"""The command line as processes that go on: their log lines, their endpoint, and their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from webhooks import WebhookServer, until

from tests.cli.conftest import COMMAND

__all__ = ["Process", "asked", "configure", "metrics", "running"]

ROOT = Path(__file__).parents[2]


class Process:
    """A command that runs for ever, and the log lines that it wrote so far."""

    def __init__(self, *words: object) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
        self.child = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"PYTHONPATH": str(ROOT)},
        )
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            # The last one of a process that was killed may be half a line.
            if line.startswith("{") and line.endswith("\n"):
                self.lines.append(json.loads(line))
            else:
                self.other.append(line)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Every log line about something."""
        return [line for line in self.lines if line["event"] == event]

    def wait_for(self, event: str, times: int = 1) -> dict[str, Any]:
        """Return the log line about something, once it is there so many times."""

        def is_there() -> bool:
            assert self.child.poll() is None or len(self.said(event)) >= times, (self.lines, self.other)
            return len(self.said(event)) >= times

        until(is_there)
        return self.said(event)[times - 1]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Tell it to end, and return its exit status and what it wrote to stdout."""
        if self.child.poll() is None:
            self.child.send_signal(number)
        # Not `communicate`, which would read the log lines too, and from the thread that reads them here.
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        too_late = threading.Timer(60, self.child.kill)
        too_late.start()
        with self.child.stdout as stdout, self.child.stderr:
            out = stdout.read()
            self.child.wait()
            self._reader.join()
        too_late.cancel()
        too_late.join()
        return self.child.returncode, out


@contextmanager
def running(*words: object) -> Iterator[Process]:
    """Run a command until the end of the test."""
    process = Process(*words)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            process.child.kill()
            process.end()


def configure(data: Path, hook: WebhookServer | None = None, more: str = "") -> None:
    """Write the TOML file, with a webhook."""
    alerts = '[alerts]\nwebhook = { env = "HOOK" }\nheaders = { X-Token = "t" }\n' if hook else ""
    (data / "ledger-replay.toml").write_text(alerts + more)


def metrics(address: str) -> dict[str, float]:
    """Every sample that the endpoint gives, by its name and labels as they stand there."""
    text = asked(address, "/metrics")[1]
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def asked(address: str, path: str) -> tuple[int, str]:
    """Ask the endpoint."""
    with urllib3.PoolManager() as client:
        answer = client.request("GET", f"http://{address}{path}", retries=False)
        return answer.status, answer.data.decode()

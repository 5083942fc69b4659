"""Hooks: the command or webhook that pauses a foreign system before a recovery, or lets it go on after."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

import msgspec
import urllib3

from consumers.posting import post
from schemas.errors import HookFailed

__all__ = ["Hook", "What", "run_hook"]

What = Literal["pause", "go_on"]

#: How much of a command's output an error repeats: the end of it, where the reason is.
OUTPUT_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A command (its arguments, which no shell reads) or the URL of a webhook, whichever is given.

    `headers` may hold secrets, and the URL may be one. `timeout_seconds` is how long a command may run, or a webhook
    may take to connect and then to answer.
    """

    command: Sequence[str] = ()
    url: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 60.0


def run_hook(hook: Hook, *, run: str, what: What) -> None:
    """Run a hook and return once it has done it; HookFailed says why it did not, with what the command said.

    A command is told run and purpose in LEDGER_REPLAY_RUN and LEDGER_REPLAY_HOOK, and must end with status 0; one that
    takes too long is killed with what it started. A webhook gets them as JSON, and must answer 2xx. A resumed run may
    call a hook again, so it must do no harm twice.
    """
    if hook.url is not None:
        _post(hook, hook.url, run, what)
    else:
        _execute(hook, run, what)


def _post(hook: Hook, url: str, run: str, what: What) -> None:
    # A key of each call: the pause of a resumed run is another one, though it says the same.
    key = uuid.uuid4().hex
    client = urllib3.PoolManager(num_pools=1, retries=False, timeout=hook.timeout_seconds)
    try:
        body = msgspec.json.encode({"kind": what, "run": run, "idempotency_key": key})
        answer = post(client, url, body, key=key, headers=hook.headers)
    finally:
        client.clear()
    if answer.result != "sent":
        raise _failed(what, answer.error or "", "the webhook")


def _execute(hook: Hook, run: str, what: What) -> None:
    where = " ".join(hook.command)
    variables = {**os.environ, "LEDGER_REPLAY_RUN": run, "LEDGER_REPLAY_HOOK": what}
    # A file: with a pipe, what the command leaves running in the background would have to end before we go on.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell.
                hook.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _failed(what, f"the command cannot be run: {error}", where) from error
        status = _wait(process, hook.timeout_seconds)
        said = _end_of(output)
    if status != 0:
        how = f"did not end within {hook.timeout_seconds:g} s" if status is None else _ending(status)
        raise _failed(what, f"the command {how}" + (f" and said: {said}" if said else " and said nothing"), where)


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    """Return the exit status, None where it took too long; nothing of it goes on after that or an interrupt."""
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _end_of(output: BinaryIO) -> str:
    length = output.seek(0, os.SEEK_END)
    output.seek(max(0, length - 4 * OUTPUT_CHARACTERS_MAX))
    return output.read(4 * OUTPUT_CHARACTERS_MAX).decode(errors="replace").strip()[-OUTPUT_CHARACTERS_MAX:]


def _failed(what: What, reason: str, where: str) -> HookFailed:
    purpose = "pauses the foreign system" if what == "pause" else "lets the foreign system go on"
    return HookFailed(
        f"what {purpose} did not do it: {reason}",
        where=where,
        next_step=f"see `{what}` under [recover] of the configuration, mend it, then `recover resume`",
    )

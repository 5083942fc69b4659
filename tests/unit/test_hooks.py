"""What pauses a foreign system and lets it go on: run without a shell, waited for, and heard when it fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from webhooks import until, webhook

from consumers.hooks import OUTPUT_CHARACTERS_MAX, Hook, run_hook
from schemas.errors import HookFailed


def python(code: str, *arguments: str, timeout_seconds: float = 60.0) -> Hook:
    """A hook whose command runs some Python."""
    return Hook(command=(sys.executable, "-c", code, *arguments), timeout_seconds=timeout_seconds)


def failure(hook: Hook) -> HookFailed:
    """Run a hook that must fail, and return how."""
    with pytest.raises(HookFailed) as failed:
        run_hook(hook, run="r", what="pause")
    return failed.value


def test_a_command_is_told_what_it_is_run_for(tmp_path: Path) -> None:
    """A command finds run and purpose in its environment, its arguments as they are, and nothing to read."""
    path = tmp_path / "said"
    code = (
        "import os, sys; open(sys.argv[1], 'w').write('|'.join([os.environ['LEDGER_REPLAY_RUN'], "
        "os.environ['LEDGER_REPLAY_HOOK'], sys.argv[2], sys.stdin.read()]))"
    )
    run_hook(python(code, str(path), "$HOME; `id` *"), run="recovery-1", what="go_on")
    assert path.read_text() == "recovery-1|go_on|$HOME; `id` *|"


def test_a_command_that_fails_is_heard() -> None:
    """The error has the status and the end of what the command said, and names command and setting."""
    code = "import sys; print('x' * 5000); print('no such queue', file=sys.stderr); sys.exit(3)"
    error = failure(python(code))
    assert "the command ended with status 3 and said: " in error.what
    assert error.what.endswith("x\nno such queue")
    assert error.what.count("x") < OUTPUT_CHARACTERS_MAX
    assert error.where.startswith(sys.executable)
    assert "`pause` under [recover]" in error.next_step
    assert failure(python("import sys; sys.exit(1)")).what.endswith("status 1 and said nothing")


def test_a_command_that_is_killed_or_is_not_there() -> None:
    """Death by a signal, and a command that cannot be run at all, are failures in words."""
    assert "was ended by signal 9" in failure(python("import os; os.kill(os.getpid(), 9)")).what
    assert "cannot be run: " in failure(Hook(command=("/nowhere/at all",))).what
    assert "cannot be run: " in failure(Hook(command=("a\0b",))).what


def test_output_that_is_no_text() -> None:
    """Bytes that are no UTF-8 do not hide the failure."""
    code = "import sys; sys.stdout.buffer.write(bytes([255, 254])); sys.exit(1)"
    assert failure(python(code)).what.endswith("said: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}")


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """Nothing of a command that did not end in time goes on to pause what runs again."""
    path = tmp_path / "child"
    code = 'sleep 600 & echo $! > "$1"; echo waiting; sleep 600'
    error = failure(Hook(command=("/bin/sh", "-c", code, "sh", str(path)), timeout_seconds=2))
    assert "did not end within 2 s and said: waiting" in error.what
    until(lambda: _is_gone(int(path.read_text())))


def _is_gone(process: int) -> bool:
    """Say whether a process has ended, waited for by its parent or not yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_command_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    """A command that has ended well is done, though what it started still holds its output open."""
    path = tmp_path / "child"
    code = 'sleep 600 & echo $! > "$1"'
    run_hook(Hook(command=("/bin/sh", "-c", code, "sh", str(path))), run="r", what="pause")
    child = int(path.read_text())
    assert not _is_gone(child)
    os.kill(child, 9)


def test_a_webhook_is_told_once() -> None:
    """A webhook gets kind and run as JSON, under a key of each call; any 2xx is success."""
    with webhook(200, 204) as server:
        hook = Hook(url=server.url, headers={"X-Token": "s3cret"})
        run_hook(hook, run="recovery-1", what="pause")
        run_hook(hook, run="recovery-1", what="go_on")
    first, second = server.requests
    key = first.headers["Idempotency-Key"]
    assert first.document == {"kind": "pause", "run": "recovery-1", "idempotency_key": key}
    assert first.headers["X-Token"] == "s3cret"
    assert second.document["kind"] == "go_on"
    assert second.headers["Idempotency-Key"] != key


@pytest.mark.parametrize(("status", "words"), [(500, "answered 500"), (302, "answered 302"), (0, "the webhook")])
def test_a_webhook_that_does_not_take_it(status: int, words: str) -> None:
    """Any other answer, a redirect, and none at all are failures that give neither path nor token away."""
    with webhook(status, headers={"Location": "http://127.0.0.1:1/"}) as server:
        hook = Hook(url=server.url, headers={"X-Token": "s3cret"})
        error = failure(hook)
    assert words in str(error)
    assert "secret-path" not in f"{error} {hook!r}"
    assert "s3cret" not in f"{error} {hook!r}"
    assert len(server.requests) == 1

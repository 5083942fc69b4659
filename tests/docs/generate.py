"""The generated documents: `python -m tests.docs.generate` writes them, and a test says when they are stale."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from typer.main import get_command

from console.app import app
from console.main import main
from schemas import json_schema

__all__ = ["documents", "write"]

ROOT = Path(__file__).parents[2]
HEAD = "# Command line\n\nGenerated from `--help` by `make docs`; a test fails where it is stale.\n"
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
NOT_PLAIN = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH")


def documents() -> dict[Path, bytes]:
    """Return the path, from the root of the project, and the content of each generated file."""
    schemas = {Path("schemas/json") / name: content for name, content in json_schema.generate().items()}
    return schemas | {Path("docs/cli.md"): _in_plain_environment()}


def write() -> None:
    """Write the generated files."""
    for path, content in documents().items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_bytes(content)


def _in_plain_environment() -> bytes:
    """Return the command line reference as a process of its own renders it, whatever terminal this one has."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
    environment = {name: value for name, value in own.items() if name not in NOT_PLAIN} | PLAIN
    command = [sys.executable, "-m", "tests.docs.generate", "--print"]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout


def _command_line() -> str:
    titled = ((" ".join(["ledger-replay", *words]), _help(words)) for words in _commands(get_command(app)))
    sections = [f"## {title}\n\n```text\n{text}```\n" for title, text in titled]
    return "\n".join([HEAD, *sections])


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, each group before what is in it."""
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(inner, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    with redirect_stdout(io.StringIO()) as shown:
        status = main([*words, "--help"])
    assert status == 0, words
    return "".join(f"{line.rstrip()}\n" for line in shown.getvalue().strip().splitlines())


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(_command_line())
    else:
        write()

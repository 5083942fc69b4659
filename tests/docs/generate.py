"""The generated documents: `python -m tests.docs.generate` writes them, and a test says when they are stale."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from console.main import app
from schemas import json_schema

__all__ = ["documents", "write"]

ROOT = Path(__file__).parents[2]
START = "import sys; sys.argv[0] = 'ledger-replay'; from console.main import main; sys.exit(main())"
HEAD = "# Command line\n\nGenerated from `--help` by `make docs`; a test fails where it is stale.\n"


def documents() -> dict[Path, bytes]:
    """Return the path, from the root of the project, and the content of each generated file."""
    schemas = {Path("schemas/json") / name: content for name, content in json_schema.generate().items()}
    return schemas | {Path("docs/cli.md"): _command_line().encode()}


def write() -> None:
    """Write the generated files."""
    for path, content in documents().items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_bytes(content)


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
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
    done = subprocess.run(
        [sys.executable, "-c", START, *words, "--help"],
        cwd=ROOT,
        env=kept | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip().splitlines())


if __name__ == "__main__":
    write()

"""The way in, and the one place where errors end. Nothing is imported before Ctrl-C ends tidily."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["INTERRUPTED", "main"]

#: The exit status of a command that Ctrl-C ended, as a shell would give it.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; every error ends here as one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    return status


def _run(words: Sequence[str]) -> int:
    import typer

    from console.app import app
    from console.failure import fail

    options = words[: words.index("--")] if "--" in words else words
    try:
        status = app(words, standalone_mode=False, prog_name="ledger-replay")
        sys.stdout.flush()
    except typer.Abort:
        return INTERRUPTED
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the column library's panics are BaseExceptions.
        return fail(error, as_json="--json" in options, debug="--debug" in options)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `ledger-replay`: its commands, and the one place where errors end."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import typer

from console import command_demo, commands_ask, commands_check, commands_data, commands_replay
from console.failure import INTERRUPTED, fail
from console.run import everywhere, everywhere_parameters

__all__ = ["app", "main"]

app = typer.Typer(
    name="ledger-replay",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (commands_data, commands_replay, commands_ask, commands_check, command_demo):
    room.register(app)


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("ledger-replay")
        except PackageNotFoundError:
            number = "run from its source, not installed"
        typer.echo(f"ledger-replay {number}")
        raise typer.Exit


def _root(ctx: typer.Context, version: bool, **values: Any) -> None:
    """Rebuild, prove and compare the balances of a points system from its transactions.

    The options below go before or after the command.
    """
    del version
    ctx.obj = everywhere(ctx, values)


_VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    default=typer.Option(False, "--version", is_eager=True, callback=_version, help="Say which version this is."),
    annotation=bool,
)
_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
_root.__signature__ = inspect.Signature([_CONTEXT, _VERSION, *everywhere_parameters(reads_environment=True)])  # type: ignore[attr-defined]
_root.__annotations__ = {p.name: p.annotation for p in _root.__signature__.parameters.values()}  # type: ignore[attr-defined]
app.callback()(_root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; every error ends here as one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in options
    try:
        status = app(words, standalone_mode=False, prog_name="ledger-replay")
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the column library's panics are BaseExceptions.
        return fail(error, as_json=as_json, debug="--debug" in options)
    if status == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `ledger-replay`: its commands, its first options, and what its help says of exit statuses."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from console import (
    command_demo,
    commands_accounts,
    commands_archive,
    commands_ask,
    commands_audit,
    commands_breaks,
    commands_check,
    commands_data,
    commands_drift,
    commands_reconcile,
    commands_recover,
    commands_replay,
    commands_topic,
)
from console.run import everywhere, everywhere_parameters

__all__ = ["app"]

EPILOG = "\n\n".join(
    (
        "Exit status: 0 clean; 1 findings or drift; 2 bad usage, unreadable input or configuration; 3 INCOMPLETE or "
        "INCOMPARABLE, or some rows were rejected; 4 REFUSED, nothing was written; 5 failed. If several hold, the "
        "highest.",
        "An error is one line on standard error. With --json it is the one document too: verdict REFUSED (status 4), "
        "INCOMPLETE (3) or FAILED (any other, bad usage included), and error with kind, what, where, next_step and "
        "exit_status.",
    )
)

app = typer.Typer(
    name="ledger-replay",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (
    commands_data,
    commands_replay,
    commands_topic,
    commands_archive,
    commands_ask,
    commands_check,
    commands_drift,
    commands_reconcile,
    commands_breaks,
    commands_accounts,
    commands_recover,
    commands_audit,
    command_demo,
):
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

"""What every command shares: the options that stand everywhere, the open ledger, progress, and the answer's way out.

A command is a function of a `Run` and its own arguments that returns an `Answer`. `command` registers it with
the options of `Everywhere` added, so that `ledger-replay --data D balances` and `ledger-replay balances --data D`
are the same; what stands after the command wins.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from console.moments import parse_moment
from console.settings import Settings, load_settings
from schemas.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from console.answer import Answer
    from ledger.store import Store
    from replay.archive.table import Archive
    from replay.topic.connection import Client, Connection
    from replay.topic.full_replay import Watch

__all__ = [
    "DEFAULT_DATA",
    "FORMATS",
    "NO_TABLE",
    "Everywhere",
    "Progress",
    "Run",
    "command",
    "everywhere",
    "without_subcommand",
]

FORMATS = ("table", "csv", "json", "parquet")
#: What an answer that is no table can be shown as.
NO_TABLE = ("table", "json")
DEFAULT_DATA = Path("ledger-data")
PANEL = "Everywhere"

#: The exit status of a command that a closed pipe ended, as a shell would give it.
BROKEN_PIPE = 141

#: Called with events done and events in all, None where that is not known.
Progress = Callable[[int, int | None], None]

#: Formats that a command takes, or what says so by its own arguments.
Formats = Sequence[str] | Callable[[dict[str, Any]], Sequence[str]]


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, show_default=False, **more)


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """The options that every command takes, None where not given."""

    data: Annotated[
        Path | None,
        _option(
            "--data", metavar="DIR", envvar="LEDGER_REPLAY_DATA", help="The ledger's folder (default ./ledger-data)."
        ),
    ] = None
    store: Annotated[
        str | None,
        _option(
            "--store",
            metavar="URL",
            envvar="LEDGER_REPLAY_STORE",
            help="SQLite or PostgreSQL URL of the event store (default: ledger.db in the folder).",
        ),
    ] = None
    bootstrap_servers: Annotated[
        str | None,
        _option(
            "--bootstrap-servers",
            metavar="HOST:PORT",
            envvar="LEDGER_REPLAY_BOOTSTRAP_SERVERS",
            help="Kafka brokers, several by comma.",
        ),
    ] = None
    config: Annotated[
        Path | None, _option("--config", metavar="FILE", help="TOML file (default: ledger-replay.toml in the folder).")
    ] = None
    as_json: Annotated[bool | None, _option("--json", help="One JSON document on stdout.")] = None
    format: Annotated[str | None, _option("--format", metavar="FORMAT", help="table, csv, json or parquet.")] = None
    output: Annotated[Path | None, _option("--output", metavar="FILE", help="Write the answer to a file.")] = None
    now: Annotated[str | None, _option("--now", metavar="TIME", help="Take this as the time now (ISO 8601).")] = None
    debug: Annotated[bool | None, _option("--debug", help="Show the traceback of an error.")] = None


@dataclass(kw_only=True)
class Run:
    """One run of one command: the options, and what they open."""

    options: Everywhere
    _settings: Settings | None = None
    _warned: set[str] = field(default_factory=set)

    @property
    def data(self) -> Path:
        """The ledger's folder."""
        return self.options.data or DEFAULT_DATA

    @property
    def reports(self) -> Path:
        """The folder for rejects files and reports."""
        return self.data / "reports"

    @property
    def settings(self) -> Settings:
        """The configuration, read once."""
        if self._settings is None:
            self._settings = load_settings(self.data, self.options.config)
        return self._settings

    def kafka(self) -> Connection:
        """Return how to reach Kafka; ConfigurationError if nothing says where the brokers are."""
        from importlib.util import find_spec

        from replay.topic.connection import Connection

        settings = self.settings.kafka
        servers = self.options.bootstrap_servers or settings.bootstrap_servers
        if servers is None:
            raise ConfigurationError(
                "no Kafka brokers are named",
                next_step="give --bootstrap-servers HOST:PORT, or [kafka] in the TOML file",
            )
        fastest: Client = "librdkafka" if find_spec("confluent_kafka") else "kafka-python"
        return Connection(
            bootstrap_servers=servers,
            security=settings.options(),
            stall_timeout_seconds=settings.stall_timeout_seconds,
            client=settings.client or fastest,
        )

    def topic(self, name: str | None) -> str:
        """Return the topic of the event stream: --topic, or what the configuration says."""
        return name or self.settings.kafka.topic

    def archive(self, url: str | None, *, create: bool = False) -> Archive:
        """Return the archive that is named, else as configured, else the data folder's own.

        With `create` the data folder is made where there is none, since it remembers what is in the archive.
        """
        from console.archive_place import open_archive

        if create:
            self._make_folder()
        return open_archive(self.data, self.settings.archive, url)

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Yield what shows how far each partition of a topic is; off a terminal it only says what it waits for."""
        from console.progress import partitions

        with partitions(is_terminal=sys.stderr.isatty(), say=self.warn) as show:
            yield show

    @property
    def now(self) -> datetime:
        """The clock of this run, in UTC: --now, or the time."""
        return self.moment(self.options.now, "--now") if self.options.now else datetime.now(UTC)

    def moment(self, words: str, option: str) -> datetime:
        """Return the moment that an option names, and say once which zone it was taken in where it has none."""
        zone = self.settings.timezone
        moment, is_naive = parse_moment(words, zone=zone, option=option)
        if is_naive:
            self.warn(f"times without a zone are taken in {zone}")
        return moment

    def warn(self, words: str) -> None:
        """Say something on stderr, once."""
        if words not in self._warned:
            self._warned.add(words)
            sys.stderr.write(f"note: {words}\n")

    @contextmanager
    def ledger(self) -> Iterator[Store]:
        """Yield the open event store; UsageError if there is none, since an answer would vouch for an empty one."""
        with closing(self._open(create=False)) as store:
            yield store

    @contextmanager
    def ledger_with_events(self) -> Iterator[Store]:
        """Yield the open event store of a command that answers from events; UsageError where there are none.

        An import that failed leaves an empty ledger behind, and COMPLETE with nothing in it would look like health.
        """
        with self.ledger() as store:
            with store.snapshot() as connection:
                is_empty = store.head(connection) == 0 and store.heads(connection).is_empty()
            if is_empty:
                raise UsageError(
                    "the ledger holds no event",
                    where=str(self.options.store or self.data),
                    next_step="import something first: files, or `import events --from topic` where a topic has them",
                )
            yield store

    @contextmanager
    def ledger_to_fill(self, *, dry_run: bool) -> Iterator[Store]:
        """Yield the event store of a command that brings something in, which makes it where there is none.

        A dry run makes none: it tries on an empty one of its own, which goes away.
        """
        from ledger.store import Store

        with ExitStack() as stack:
            try:
                store = self._open(create=not dry_run)
            except UsageError as error:
                if not dry_run or isinstance(error, ConfigurationError):
                    raise
                store = Store.at(stack.enter_context(TemporaryDirectory(prefix="ledger-replay-")))
            yield stack.enter_context(closing(store))

    def _open(self, *, create: bool) -> Store:
        from ledger.store import Store

        url = self.options.store or self.settings.store
        if url is not None:
            return Store(url, create=create)
        if create:
            self._make_folder()
        return Store.at(self.data, create=create)

    def _make_folder(self) -> None:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot use the data folder: {error.strerror}", where=str(self.data), next_step="choose another --data"
            ) from error

    @contextmanager
    def progress(self, doing: str, *, unit: str = "events") -> Iterator[Progress | None]:
        """Yield a progress callback that draws a bar on stderr, None where stderr is no terminal."""
        if not sys.stderr.isatty():
            yield None
            return
        from console.progress import bar

        with bar(doing, unit) as advance:
            yield advance

    @contextmanager
    def rounds(self, doing: str) -> Iterator[tuple[Progress | None, Callable[[str], None]]]:
        """Yield a progress callback, and one that says what each round came to; both do nothing off a terminal."""
        if not sys.stderr.isatty():
            yield None, lambda _: None
            return
        from console.progress import rounds

        with rounds(doing) as shown:
            yield shown


def everywhere(ctx: typer.Context, values: dict[str, Any]) -> Everywhere:
    """Return the options given to this level of the command line over those given before it."""
    above = ctx.obj if isinstance(ctx.obj, Everywhere) else Everywhere()
    names = [option.name for option in fields(Everywhere)]
    return Everywhere(**{name: getattr(above, name) if values[name] is None else values[name] for name in names})


def command(
    app: typer.Typer, name: str, *, is_rendered: bool = True, formats: Formats = FORMATS
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Return a decorator that makes a function of (run, ...) a command; its docstring is the help.

    `formats` are those that --format takes, or a function that says so by the command's own arguments; anything
    else is refused before any work. With `is_rendered` false the command's --output is its own business and only
    words or JSON are shown.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        app.command(name)(_invoking(function, formats, is_rendered=is_rendered))
        return function

    return register


def without_subcommand(
    group: typer.Typer, *, formats: Formats = FORMATS
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Return a decorator that makes a function of (run) what a group does when it is given no subcommand."""

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        invoke = _invoking(function, formats, is_rendered=True)
        invoke.__doc__ = None  # The group's help stands.
        group.callback(invoke_without_command=True)(invoke)
        return function

    return register


def _invoking(function: Callable[..., Answer], formats: Formats, *, is_rendered: bool) -> Callable[..., None]:
    """Return what typer calls for a function of (run, ...): with the options that stand everywhere added."""

    def invoke(ctx: typer.Context, **values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in fields(Everywhere)}
        options = everywhere(ctx, given)
        if ctx.invoked_subcommand is not None:
            # Only the options of the group were read here; its subcommand answers.
            _refuse_own(ctx, values)
            ctx.obj = options
            return
        run = Run(options=options)
        _check(options, formats(values) if callable(formats) else formats, is_rendered=is_rendered)
        try:
            answer = function(run, **values)
            _show(answer, options, is_rendered=is_rendered)
        except BrokenPipeError as error:
            _leave_pipe()
            raise typer.Exit(BROKEN_PIPE) from error
        raise typer.Exit(answer.exit_status)

    invoke.__name__, invoke.__doc__ = function.__name__, function.__doc__
    invoke.__signature__ = _signature(function)  # type: ignore[attr-defined]
    invoke.__annotations__ = {p.name: p.annotation for p in invoke.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return invoke


def _refuse_own(ctx: typer.Context, values: dict[str, Any]) -> None:
    """Refuse what a group alone would have read, rather than leave it unread."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in values and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{parameter.opts[0]} is not about `{ctx.invoked_subcommand}`",
                next_step=f"leave it away, or leave `{ctx.invoked_subcommand}` away",
            )


def everywhere_parameters(*, reads_environment: bool) -> list[inspect.Parameter]:
    """Return the options of `Everywhere` as keyword parameters for typer.

    Only one level of the command line reads the environment, the first: read again after the command, it would win
    over an option that stands before the command.
    """
    found = []
    for parameter in inspect.signature(Everywhere, eval_str=True).parameters.values():
        type_, option = get_args(parameter.annotation)
        if not reads_environment:
            option = copy(option)
            option.envvar = None
        annotation = Annotated[type_, option]  # type: ignore[valid-type]  # a type at run time.
        found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    return inspect.Signature([context, *own, *everywhere_parameters(reads_environment=False)])


def _leave_pipe() -> None:
    """Whoever read the pipe has gone; the interpreter's own last flush must not complain about it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _check(options: Everywhere, formats: Sequence[str], *, is_rendered: bool) -> None:
    """Say what cannot be shown before any work is done for it."""
    output = options.output if is_rendered else None
    if options.format is not None or output is not None:
        from console.render import form_of, need_place

        form_of(options.format, output, as_json=bool(options.as_json), formats=formats)
        if output is not None:
            need_place(output)


def _show(answer: Answer, options: Everywhere, *, is_rendered: bool) -> None:
    from console.render import emit

    output = options.output if is_rendered else None
    emit(answer, as_json=bool(options.as_json), format=options.format, output=output)

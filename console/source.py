"""The options that name a source or live rows, and what a position of a source looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import UsageError

if TYPE_CHECKING:
    from replay.certificate import Position

__all__ = [
    "STORE_OR_ARCHIVE",
    "STORE_OR_TOPIC",
    "AcceptTopic",
    "Against",
    "ArchivePlace",
    "LiveTableName",
    "Own",
    "Source",
    "StoreOrArchive",
    "TheirLive",
    "TopicName",
    "Workers",
    "archive_position",
    "need_one_live",
    "need_source",
    "store_position",
    "topic_position",
]

SOURCES = ("store", "topic", "archive")
STORE_OR_TOPIC = ("store", "topic")
STORE_OR_ARCHIVE = ("store", "archive")

Source = Annotated[
    str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store, topic or archive.")
]
StoreOrArchive = Annotated[
    str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store or archive.")
]
TopicName = Annotated[
    str | None, typer.Option("--topic", metavar="NAME", help="The topic (default: ledger-events, or as configured).")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, help="Processes that read a topic (default: the cores)."),
]
AcceptTopic = Annotated[
    bool,
    typer.Option("--accept-topic", help="Take the topic as it is now, whatever is known of it from before."),
]
ArchivePlace = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="URL",
        help="Where the archive is: a folder, from here, or the URL of an object store (default: as configured, else "
        "archive in the data folder).",
    ),
]


Own = Annotated[bool, typer.Option("--own", help="Our own read model, even where accounts were imported.")]
Against = Annotated[str | None, typer.Option("--against", metavar="URL", help="A table of another database.")]
LiveTableName = Annotated[str | None, typer.Option("--table", metavar="NAME", help="The live table there.")]
TheirLive = Annotated[bool, typer.Option("--live", help="The live table that the TOML file names.")]


def need_one_live(*, own: bool, live: bool, against: str | None, table: str | None) -> None:
    """Let options pass that name at most one kind of live rows, and that whole; UsageError for others."""
    given = {"--own": own, "--against": against is not None, "--live": live}
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} name different live rows", next_step="give one of them")
    if (against is None) != (table is None):
        raise UsageError("--against and --table belong together", next_step="give both, or neither")


def need_source(
    source: str, *, sources: Sequence[str] = SOURCES, archive: str | None = None, **of_topic: object
) -> None:
    """Let a source pass that a command takes; UsageError for any other.

    UsageError too where `archive`, or one of the options `of_topic`, is given with another source, which would leave
    it unread.
    """
    if source not in sources:
        raise UsageError(f"there is no source {source!r} here", next_step=f"use --from {_either(sources)}")
    options: dict[str, dict[str, object]] = {"archive": {"archive": archive}, "topic": of_topic}
    for about, given in options.items():
        for name in (name for name, value in given.items() if value and source != about):
            option = f"--{name.replace('_', '-')}"
            article = "an" if about == "archive" else "a"
            raise UsageError(
                f"{option} is about {article} {about}, and --from is {source}", next_step=f"say --from {about}"
            )


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def store_position(text: str | None, option: str) -> int | None:
    """Return a position of the store, None where none was given; UsageError for what is none."""
    if text is None:
        return None
    if not text.isdecimal():
        raise UsageError(f"{option} {text!r} is no position of the store", next_step="it is a number, from 0")
    return int(text)


def topic_position(text: str | None, option: str) -> dict[int, int] | None:
    """Return a position of a topic (`0:120,1:98`: next offset by partition), None where none was given.

    UsageError for what is none.
    """
    if text is None:
        return None
    found: dict[int, int] = {}
    for part in text.split(","):
        partition, colon, offset = part.strip().partition(":")
        if not (colon and partition.isdecimal() and offset.isdecimal()) or int(partition) in found:
            raise UsageError(
                f"{option} {text!r} is no position of a topic",
                next_step="say the next offset of every partition once, like 0:120,1:98",
            )
        found[int(partition)] = int(offset)
    return found


def archive_position(text: str | None, option: str) -> Position | None:
    """Return a position of what an archive was made from: of a store a number, of a topic offsets."""
    return topic_position(text, option) if text is not None and ":" in text else store_position(text, option)

"""The options --from, --topic and --workers, and what a position of a source looks like."""

from __future__ import annotations

from typing import Annotated

import typer

from schemas.errors import RefusedError, UsageError

__all__ = ["AcceptTopic", "Source", "TopicName", "Workers", "need_source", "store_position", "topic_position"]

SOURCES = ("store", "topic")
#: The source whose name is taken, but which is not there yet.
LATER = ("archive",)

Source = Annotated[str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store or topic.")]
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


def need_source(source: str, **of_topic: object) -> None:
    """Let a source pass; RefusedError for one that comes later, UsageError for what is none.

    UsageError too where one of the options `of_topic` is given with another source, which would leave it unread.
    """
    if source in LATER:
        raise RefusedError(
            f"--from {source} is not there yet: it comes with the {source}", next_step="use --from store or topic"
        )
    if source not in SOURCES:
        raise UsageError(f"there is no source {source!r}", next_step="use --from store or topic")
    if source != "topic":
        for name, value in of_topic.items():
            if value:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is about a topic, and --from is {source}", next_step="say --from topic")


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

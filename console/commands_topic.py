"""Commands that write to a Kafka topic: publish."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.run import NO_TABLE, Run, command
from console.source import TopicName
from console.stopping import stopped_by_signals

if TYPE_CHECKING:
    from consumers.relay import Published

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "publish", formats=NO_TABLE)(publish)


def publish(
    run: Run,
    *,
    topic: TopicName = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for ever, until Ctrl-C.")] = False,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, metavar="N", help="Partitions, where the topic is made.")
    ] = 6,
    replication: Annotated[
        int | None,
        typer.Option("--replication", min=1, metavar="N", help="Copies, where it is made (default: the broker's own)."),
    ] = None,
    accept_retention: Annotated[
        bool,
        typer.Option("--accept-retention", help="Publish even to a topic that expires or compacts what it holds."),
    ] = False,
    accept_topic: Annotated[
        bool,
        typer.Option(
            "--accept-topic",
            help="Take the topic as it is now, whatever was known of it, and publish every event again.",
        ),
    ] = False,
) -> Answer:
    """Publish the events of the store to a Kafka topic, going on where it stopped.

    A topic that is not there is made, so that it keeps every event for ever. Each event is keyed by its account, and
    is there once or, after a crash, more than once, always in order. What is damaged, and what follows a hole, is held
    back until the store is repaired.
    """
    from consumers.relay import publish as relay

    stop = threading.Event()
    kafka = run.kafka()
    with (
        run.ledger() as store,
        stopped_by_signals(stop, only_if=follow),
        run.progress("publishing") as progress,
    ):
        found = relay(
            store,
            kafka,
            run.topic(topic),
            follow=follow,
            should_stop=stop.is_set,
            progress=progress,
            partitions=partitions,
            replication=-1 if replication is None else replication,
            accept_retention=accept_retention,
            accept_topic=accept_topic,
            waiting=lambda words: run.warn(words) if words else None,
        )
    return _answer(found)


def _answer(found: Published) -> Answer:
    from console.words import count, first_few

    held = [f"held back: {each.account_id} from version {each.version:,}, {each.reason}" for each in found.parked]
    notes = first_few(held, "accounts")
    if held:
        notes.append("`verify` says why; repair the store (`import events`, or a backup), then publish again")
    return Answer(
        verdict=found.verdict,
        fields={
            "published": found.published,
            "position": found.position,
            "topic": found.topic,
            "topic_id": found.topic_id,
            "offsets": {str(partition): offset for partition, offset in found.offsets.items()},
            "parked": [
                {"account_id": each.account_id, "version": each.version, "reason": each.reason} for each in found.parked
            ],
        },
        summary=[
            f"{found.verdict}: {count(found.published, 'event')} published; topic {found.topic} is at position "
            f"{found.position:,} of the store"
        ],
        notes=notes,
    )

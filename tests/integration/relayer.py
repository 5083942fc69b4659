"""A process that publishes: `python relayer.py URL SERVERS TOPIC BATCH_EVENTS`, with a line at both ends."""

from __future__ import annotations

import sys

from consumers.relay import publish
from ledger import Store
from replay.topic.connection import Connection


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(url: str, servers: str, topic: str, batch_events: str) -> None:
    """Publish in small batches, so that a kill finds it between any two things that it does."""
    store = Store(url)
    say("began")
    connection = Connection(bootstrap_servers=servers)
    found = publish(store, connection, topic, partitions=3, batch_events=int(batch_events))
    say(found.verdict, found.published)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that reads a topic of orders in small batches, to be killed: `orders_reader.py URL SERVERS TOPIC`.

It says after each step how much it kept, and names each place that a batch passes before it passes it.
"""

from __future__ import annotations

import sys

from consumers.orders_topic import OrdersTopic
from ledger import Store
from replay.topic.connection import Connection


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(url: str, servers: str, topic: str) -> None:
    """Step for ever in small batches, so that a kill finds it between any two things that it does."""
    connection = Connection(bootstrap_servers=servers)
    reader = OrdersTopic(
        Store(url), connection, topic, batch_records=50, poll_seconds=0.05, at=lambda place: say("at", place)
    )
    say("began")
    while True:
        say("step", reader.step().events)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that follows a topic: `python topic_shadower.py URL SERVERS TOPIC BATCH_EVENTS [POINT TIMES]`.

It says where it is after each step that did something. At the given point, for that many times, it says so and waits to
be killed, or for a line.
"""

from __future__ import annotations

import sys

from consumers.topic_shadow import TopicShadow
from ledger import Store
from replay.topic.connection import Connection


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(url: str, servers: str, topic: str, batch_events: str, *stop: str) -> None:
    """Step for ever in small batches, so that a kill finds it between any two things that it does."""
    stop_at, left = (stop[0], int(stop[1])) if stop else ("", 0)

    def at(point: str) -> None:
        nonlocal left
        if point == stop_at:
            left -= 1
            if left == 0:
                say("at", point)
                sys.stdin.readline()

    connection = Connection(bootstrap_servers=servers)
    shadow = TopicShadow(Store(url), connection, topic, batch_events=int(batch_events), poll_seconds=0.05, at=at)
    say("began")
    while True:
        step = shadow.step()
        say("step", step.events, step.lag_events)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that rebuilds from a topic: `python topic_rebuilder.py URL FOLDER SERVERS TOPIC CLIENT WORKERS`."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from ledger import Store
from replay.topic import Connection, rebuild_from_topic

#: Fewer than a chunk of records: every chunk is followed by a checkpoint.
EVERY_EVENTS = 1_000


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(url: str, folder: str, servers: str, topic: str, client: str, workers: str) -> None:  # noqa: PLR0917 - as many words as the command has.
    """Rebuild with a checkpoint after every chunk, by worker processes."""
    store = Store(url)
    module = import_module("replay.topic.full_replay")
    module.Assignment = partial(module.Assignment, checkpoint_events=EVERY_EVENTS)  # type: ignore[attr-defined]
    connection = Connection(bootstrap_servers=servers, client=client, stall_timeout_seconds=30)  # type: ignore[arg-type]
    say("began")
    found = rebuild_from_topic(
        store, connection, topic, promote=True, checkpoint_folder=Path(folder), workers=int(workers)
    )
    say(found.verdict, found.certificate.digest, found.certificate.resumed_from is not None)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that imports rows from a topic in small batches, to be killed: FOLDER, BROKERS, TOPIC, CODEC, FOLLOW."""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from consumers.intake import TopicRows, import_from_topic
from ledger import Store
from ledger.importing import Mapping
from replay.topic.connection import Connection

BATCH_RECORDS = 200


def main(folder: str, servers: str, topic: str, codec: str, follow: str) -> None:
    """Import, saying when it begins and, where it was not killed, what it has done."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = Store.at(folder)
    rows = TopicRows(Connection(bootstrap_servers=servers), topic, codec, should_stop=stop.is_set)
    print("began", flush=True)  # noqa: T201 - how the test hears of it.
    ended = import_from_topic(
        store,
        rows,
        mapping=Mapping(),
        now=lambda: datetime(2025, 1, 2, tzinfo=UTC),
        rejects=Path(folder) / "rejects.csv",
        follow=follow == "follow",
        batch_records=BATCH_RECORDS,
        poll_seconds=0.05,
    )
    taken = ended.taken
    print(ended.verdict, taken.imported, taken.unchanged, taken.rejected, flush=True)  # noqa: T201 - the same.


if __name__ == "__main__":
    main(*sys.argv[1:])

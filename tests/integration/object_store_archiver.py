"""A process that archives a store into an object store, a few events a commit: `URL PLACE EXPECTED`.

The options of the object store are JSON on standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.appending import Appending
from replay.archive.files import Location
from replay.archive.table import Archive
from replay.store_source import StoreSource

COMMIT_EVENTS = 20


def main(url: str, place: str, expected: str) -> None:
    """Bring the archive up to date in small commits, saying so before the first."""
    Appending.__init__.__kwdefaults__["append_events"] = COMMIT_EVENTS  # type: ignore[index]
    snapshot: Any = StoreSource.snapshot
    snapshot.__wrapped__.__kwdefaults__["batch_events"] = COMMIT_EVENTS
    archive = Archive(Location(place, json.load(sys.stdin)), expected=Path(expected))
    sys.stdout.write("began\n")
    sys.stdout.flush()
    archive_store(archive, Store(url))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process that archives a store and compacts the archive: `python archive_runner.py URL FOLDER COMMIT FILE`.

COMMIT and FILE are the events of a commit and of a compacted file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from consumers.archiver import archive_store
from ledger import Store
from replay.archive.appending import Appending
from replay.archive.compaction import compact
from replay.archive.files import Location
from replay.archive.table import Archive
from replay.store_source import StoreSource


def say(word: str) -> None:
    """Tell the test, at once."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def main(url: str, folder: str, commit_events: str, file_events: str) -> None:
    """Bring the archive up to date in small commits, then compact it into small files."""
    Appending.__init__.__kwdefaults__["append_events"] = int(commit_events)  # type: ignore[index]
    snapshot: Any = StoreSource.snapshot
    snapshot.__wrapped__.__kwdefaults__["batch_events"] = int(commit_events)
    archive = Archive(Location(f"{folder}/archive"), expected=Path(folder) / "archive.json")
    store = Store(url)
    say("began")
    archive_store(archive, store)
    say("archived")
    compact(archive, file_events=int(file_events))
    say("compacted")


if __name__ == "__main__":
    main(*sys.argv[1:])

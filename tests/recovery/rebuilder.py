"""A process that rebuilds or projects: `python rebuilder.py rebuild|project URL FOLDER`, with a line at both ends."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from consumers import project
from ledger import Store
from replay.checkpoint import Checkpoints

#: Small enough for many checkpoints and batches in a second's run.
EVERY_EVENTS = 1_000
BATCH_EVENTS = 250


def say(*words: object) -> None:
    """Tell the test, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(what: str, url: str, folder: str) -> None:
    """Rebuild with many checkpoints, or project in many batches."""
    store = Store(url)
    module = import_module("replay.rebuild")
    say("began")
    if what == "project":
        say(project(store, batch_events=BATCH_EVENTS).verdict)
        return
    # What a rebuild of a million events does once, this one does often, so that a kill finds it at any stage.
    module.Checkpoints = partial(Checkpoints, every_events=EVERY_EVENTS)  # type: ignore[attr-defined]
    source = module.StoreSource
    source.snapshot = partial(source.snapshot, batch_events=BATCH_EVENTS)
    found = module.rebuild(store, promote=True, checkpoint_folder=Path(folder))
    say(found.certificate.digest, found.certificate.resumed_from, found.generation)


if __name__ == "__main__":
    main(*sys.argv[1:])

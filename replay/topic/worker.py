"""A worker process that replays partitions of a topic one after the other; started by `replay.topic.workers`.

Run as a script. Assignments come as JSON lines on standard input; states and outcomes go as JSON lines to standard
output, the results themselves as checkpoints on disk. An error ends the worker: its partition is then replayed by
the process that asked, which goes on from the checkpoint.
"""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import msgspec

if __name__ == "__main__":
    # These packages import all that their users may want, most of it for databases: twice as long to start.
    for package in ("ledger", "replay", "replay.topic"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(Path(__file__).parents[2].joinpath(*package.split(".")))]

from replay.topic.client import CHUNK_RECORDS, Reader, open_reader
from replay.topic.partition import Assignment, Outcome, State, replay_partition

__all__ = ["serve"]

#: Records after which garbage is collected: the collector would walk every record of a chunk in vain, and what
#: the clients leave behind in cycles is little.
COLLECT_RECORDS = 40 * CHUNK_RECORDS

#: Seconds for which one thread keeps the interpreter while another wants it.
SWITCH_SECONDS = 0.0002


def serve() -> None:
    """Answer assignments until standard input ends; all are of one topic."""
    gc.disable()
    # The client's thread runs Python all the time, and each call of the column engine would wait its turn of 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    decoder, encoder = msgspec.json.Decoder(Assignment), msgspec.json.Encoder()
    collected = 0

    def say(found: State | Outcome) -> None:
        nonlocal collected
        sys.stdout.buffer.write(encoder.encode(found) + b"\n")
        sys.stdout.buffer.flush()
        collected += 1
        if collected % (COLLECT_RECORDS // CHUNK_RECORDS) == 0:
            gc.collect()

    with ExitStack() as stack:
        spill = Path(stack.enter_context(TemporaryDirectory(prefix="ledger-replay-")))
        reader: Reader | None = None
        for line in sys.stdin.buffer:
            assignment = decoder.decode(line)
            if reader is None:
                reader = stack.enter_context(open_reader(assignment.connection, assignment.topic))
            say(replay_partition(assignment, reader, spill, say))


if __name__ == "__main__":
    serve()

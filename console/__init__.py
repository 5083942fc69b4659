"""Where people meet the ledger: the command line, its configuration, and how answers are shown."""

import os

__all__: list[str] = []

# The column engine's allocator reads this once, when polars is loaded, which is after this. By itself it gives memory
# back to the system within a second, only to ask for it again for the next slice of events: a tenth of the time of a
# replay that makes its states slice by slice.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:3000,muzzy_decay_ms:0")

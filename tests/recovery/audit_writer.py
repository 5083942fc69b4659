"""A process that writes to the audit trail: `python -m tests.recovery.audit_writer URL FILE NAME`, for ever.

Each turn appends a few entries and then keeps the heads in the file; a line says that a turn is done.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from audit_trails import AT, entry, record

from ledger import Store
from ledger.audit_heads import HeadFile, keep


def main(url: str, path: str, name: str) -> None:
    """Write until killed."""
    store = Store(url)
    file = HeadFile(Path(path), store.ledger_id)
    for turn in count():
        record(store, *(entry(number, by=name) for number in range(turn % 3 + 1)))
        keep(store, [file], AT)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

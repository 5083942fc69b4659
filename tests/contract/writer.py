"""A process that writes to a ledger: `python writer.py URL NAME COMMANDS ACCOUNT...`, a line for each commit."""

from __future__ import annotations

import sys

from ledger import Ledger, Store


def main(url: str, name: str, commands: str, *account_ids: str) -> None:
    """Credit the accounts in turn, one point a command."""
    ledger = Ledger(Store(url))
    for number in range(int(commands)):
        ledger.credit(account_ids[number % len(account_ids)], f"{name}-{number}", 1)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

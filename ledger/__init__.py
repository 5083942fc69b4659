"""The event store, the rules, and the write model of one ledger."""

from ledger.account import Account, Transaction
from ledger.application import Ledger
from ledger.store import GENESIS, Store, chain

__all__ = ["GENESIS", "Account", "Ledger", "Store", "Transaction", "chain"]

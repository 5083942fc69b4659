"""Projections: pure associative folds over columnar event batches. Imports `schemas` and `ledger` only."""

from projections.account_status import ACCOUNT_STATUS
from projections.balances import BALANCE_COLUMNS, BALANCES, account_rows, overflowed
from projections.protocol import Projection
from projections.relations import RELATIONS
from projections.transactions import TRANSACTIONS

__all__ = [
    "ACCOUNT_STATUS",
    "BALANCES",
    "BALANCE_COLUMNS",
    "RELATIONS",
    "TRANSACTIONS",
    "Projection",
    "account_rows",
    "overflowed",
]

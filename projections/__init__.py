"""Projections: pure associative folds over columnar event batches. Imports `schemas` and `ledger` only."""

from projections.account_status import ACCOUNT_STATUS
from projections.balances import BALANCE_COLUMNS, BALANCES, account_rows, overflowed
from projections.protocol import Projection

__all__ = [
    "ACCOUNT_STATUS",
    "BALANCES",
    "BALANCE_COLUMNS",
    "Projection",
    "account_rows",
    "overflowed",
]

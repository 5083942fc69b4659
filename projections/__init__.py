"""Projections: pure associative folds over columnar event batches. Imports `schemas` and `ledger` only."""

from projections.account_status import ACCOUNT_STATUS
from projections.balances import BALANCE_COLUMNS, BALANCES, account_rows, overflowed
from projections.integrity import (
    FINDINGS_SCHEMA,
    INTEGRITY,
    account_findings,
    cross_account_findings,
    findings,
    identities,
    missing_related,
    noticed,
    sort_findings,
)
from projections.order_links import ORDER_LINKS
from projections.orders import ORDER_STATE, ORDERS
from projections.protocol import Projection
from projections.reconciliation import (
    LINKED_SCHEMA,
    MISMATCH_SCHEMA,
    WITHHELD_SCHEMA,
    Rules,
    judged,
    subjects,
    withheld,
)
from projections.relations import RELATIONS
from projections.transactions import TRANSACTIONS

__all__ = [
    "ACCOUNT_STATUS",
    "BALANCES",
    "BALANCE_COLUMNS",
    "FINDINGS_SCHEMA",
    "INTEGRITY",
    "LINKED_SCHEMA",
    "MISMATCH_SCHEMA",
    "ORDERS",
    "ORDER_LINKS",
    "ORDER_STATE",
    "RELATIONS",
    "TRANSACTIONS",
    "WITHHELD_SCHEMA",
    "Projection",
    "Rules",
    "account_findings",
    "account_rows",
    "cross_account_findings",
    "findings",
    "identities",
    "judged",
    "missing_related",
    "noticed",
    "overflowed",
    "sort_findings",
    "subjects",
    "withheld",
]

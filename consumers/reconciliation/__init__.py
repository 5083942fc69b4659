"""The reconciliation that never stops: follow the ledger and the orders, and judge what either says of an order."""

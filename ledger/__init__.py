"""The event store, the rules, and the write model of one ledger."""

"""Where people meet the ledger: the command line, its configuration, and how answers are shown."""

"""Import of legacy rows into the ledger's own tables, and export and import of its events."""

from ledger.importing.accounts import import_accounts
from ledger.importing.events import export_events, import_events
from ledger.importing.healing import Copy, Healed, heal
from ledger.importing.mapping import Mapping, load_mapping, mapping_of
from ledger.importing.orders import import_orders
from ledger.importing.result import ColumnProfile, Imported, Progress
from ledger.importing.sources import FileSource, Source
from ledger.importing.table_source import TableSource
from ledger.importing.transactions import import_transactions

__all__ = [
    "ColumnProfile",
    "Copy",
    "FileSource",
    "Healed",
    "Imported",
    "Mapping",
    "Progress",
    "Source",
    "TableSource",
    "export_events",
    "heal",
    "import_accounts",
    "import_events",
    "import_orders",
    "import_transactions",
    "load_mapping",
    "mapping_of",
]

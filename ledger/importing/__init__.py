"""Import of legacy rows into the ledger's own tables, and export and import of its events."""

from ledger.importing.mapping import Mapping, load_mapping, mapping_of
from ledger.importing.result import ColumnProfile, Imported
from ledger.importing.sources import FileSource, Source
from ledger.importing.transactions import import_transactions

__all__ = [
    "ColumnProfile",
    "FileSource",
    "Imported",
    "Mapping",
    "Source",
    "import_transactions",
    "load_mapping",
    "mapping_of",
]

"""Replay: events through the gate into states, and what is made of them. Imports `projections` and to its left.

`rebuild` writes a new generation of the read model; `balances`, `history`, `graph` and `verify` answer from the
events; `drift` compares live rows with a replay. All of them are one engine loop over a bounded source. `open_archive`
and what has `archive` in its name are the same of an archive; `consumers.archiver` makes one.
"""

from replay.answers import Balances, History, balances, history
from replay.archive.answers import balances_from_archive, graph_from_archive, history_from_archive
from replay.archive.opening import open_archive
from replay.archive.rebuild import rebuild_from_archive
from replay.archive.table import Archive
from replay.certificate import Certificate
from replay.digest import digest
from replay.drift import Drift, Drifted, drift
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.gate import Gate, Parked
from replay.graph import Graph, graph
from replay.rebuild import Rebuild, generations, promote_generation, rebuild
from replay.source import Batch, Source
from replay.store_source import StoreSource
from replay.verify import Settled, Verification, settle_stale, verify

__all__ = [
    "Archive",
    "Balances",
    "Batch",
    "Certificate",
    "Drift",
    "Drifted",
    "Gate",
    "Graph",
    "History",
    "Parked",
    "Progress",
    "Rebuild",
    "Replay",
    "Settled",
    "Source",
    "StoreSource",
    "Verification",
    "balances",
    "balances_from_archive",
    "digest",
    "drift",
    "generations",
    "graph",
    "graph_from_archive",
    "history",
    "history_from_archive",
    "open_archive",
    "promote_generation",
    "rebuild",
    "rebuild_from_archive",
    "replayed",
    "settle_stale",
    "verify",
]

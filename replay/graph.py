"""The graph of a transaction: everything linked to it through `related_transaction_id`, both ways."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import rustworkx as rx

from ledger.store import Store
from projections import RELATIONS, TRANSACTIONS
from replay.certificate import INCOMPLETE, Certificate
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.store_source import StoreSource
from schemas.errors import UsageError

__all__ = ["Graph", "graph", "graph_of"]

TRANSACTION_COLUMNS = (
    "transaction_id",
    "account_id",
    "type",
    "amount",
    "status",
    "created_at",
    "updated_at",
    "business_code",
    "order_id",
)


@dataclass(frozen=True)
class Graph:
    """Linked transactions; `edges` go from a transaction to the one that it names as related.

    `transactions` has `TRANSACTION_COLUMNS`, `edges` has `transaction_id` and `related_transaction_id`, `missing`
    lists ids that are named but are no transaction of the ledger.
    """

    verdict: str
    transactions: pl.DataFrame
    edges: pl.DataFrame
    missing: list[str]
    certificate: Certificate

    def to_dot(self) -> str:
        """Return the graph in the DOT language of Graphviz; missing transactions are dashed."""
        lines = ["digraph transactions {", "  rankdir=LR;", "  node [shape=box];"]
        lines += [f"  {_quoted(name)} [label={_quoted(chr(10).join([name, *said]))}];" for name, said in self._nodes()]
        lines += [f"  {_quoted(name)} [style=dashed];" for name in self.missing]
        lines += [f"  {_quoted(source)} -> {_quoted(target)};" for source, target in self.edges.iter_rows()]
        return "\n".join([*lines, "}"])

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart; missing transactions are rounded."""
        nodes = self._nodes()
        # Mermaid has no escape for an arbitrary id, so nodes are numbered and carry the id as their text.
        number = {name: f"t{index}" for index, name in enumerate([*(name for name, _ in nodes), *self.missing])}
        lines = ["flowchart LR"]
        labels = {name: "<br>".join(map(_entities, [name, *said])) for name, said in nodes}
        lines += [f'  {number[name]}["{label}"]' for name, label in labels.items()]
        lines += [f'  {number[name]}(["{_entities(name)}"])' for name in self.missing]
        lines += [f"  {number[source]} --> {number[target]}" for source, target in self.edges.iter_rows()]
        return "\n".join(lines)

    def _nodes(self) -> list[tuple[str, list[str]]]:
        """Return every transaction id, and what it is, in each account that has it: edges know no accounts."""
        rows: dict[str, list[dict[str, object]]] = {}
        for row in self.transactions.iter_rows(named=True):
            rows.setdefault(row["transaction_id"], []).append(row)
        return [(name, _said(of_id)) for name, of_id in rows.items()]


def graph(store: Store, transaction_id: str, *, progress: Progress | None = None) -> Graph:
    """Return everything linked to a transaction; UsageError if no event mentions it.

    Where an account is parked, its events may mention it: then the graph is empty and the verdict INCOMPLETE. So may
    an id be among the missing that a parked account has.
    """
    with (
        StoreSource.snapshot(store) as source,
        replayed(source, [TRANSACTIONS, RELATIONS], progress=progress) as replay,
    ):
        return graph_of(replay, transaction_id)


def graph_of(replay: Replay, transaction_id: str) -> Graph:
    """Return the graph out of a replay with `TRANSACTIONS` and `RELATIONS`, as `graph` does."""
    edges = replay.states.value(RELATIONS).select("transaction_id", "related_transaction_id").unique()
    linked = _linked(edges, transaction_id)
    named = pl.col("transaction_id").is_in(list(linked))
    buckets = replay.states.buckets(TRANSACTIONS, named)
    transactions = pl.concat([TRANSACTIONS.empty(), *buckets]).select(TRANSACTION_COLUMNS)
    edges = edges.filter(named).sort("transaction_id", "related_transaction_id")
    missing = sorted(linked - set(transactions["transaction_id"]))
    if transactions.is_empty():
        if replay.verdict == INCOMPLETE:
            return Graph(INCOMPLETE, transactions, edges, [], replay.certificate)
        raise UsageError(f"no transaction {transaction_id} in the ledger", next_step="check the id")
    return Graph(replay.verdict, transactions.sort("transaction_id", "account_id"), edges, missing, replay.certificate)


def _linked(edges: pl.DataFrame, transaction_id: str) -> set[str]:
    whole = rx.PyGraph()
    names = list(dict.fromkeys([transaction_id, *edges["transaction_id"], *edges["related_transaction_id"]]))
    number = {name: index for index, name in enumerate(names)}
    whole.add_nodes_from(names)
    whole.add_edges_from_no_data([(number[source], number[target]) for source, target in edges.iter_rows()])
    return {names[index] for index in rx.node_connected_component(whole, 0)}


def _said(rows: list[dict[str, object]]) -> list[str]:
    lines = [f"{row['type']} {row['amount']} {row['status']}" for row in rows]
    return lines if len(rows) == 1 else [f"{row['account_id']}: {line}" for row, line in zip(rows, lines, strict=True)]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _entities(text: str) -> str:
    # The number sign first, since it begins what the others become.
    codes = {"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "\n": " "}
    for sign, code in codes.items():
        text = text.replace(sign, code)
    return text

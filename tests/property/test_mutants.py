"""A bug in either implementation of the rules is caught: every small change to one of them makes the two disagree.

The rules are what a change is worth, and which changes are legal.
"""

from __future__ import annotations

import ast
import inspect
import random
import textwrap
from types import ModuleType

import oracle
import polars as pl
import pytest
from agreement import by_aggregate, by_projection, disagreements
from histories import ACCOUNTS, START, STATUSES, History

import ledger.account
import ledger.rules
import projections.balances
import projections.transactions
from projections import TRANSACTIONS
from schemas import Event, TransactionStatusChanged, event_id, event_rows

SEED = 20240301
SWAPS = {
    "credit": "debit",
    "debit": "credit",
    "pending": "frozen",
    "frozen": "completed",
    "completed": "pending",
}


def corpus() -> list:
    """A history that takes both types through every pair of statuses, told or true, from a fixed seed."""
    chance = random.Random(SEED)
    steps = [
        {
            "kind": kind,
            "account": chance.choice(ACCOUNTS),
            "transaction": chance.randrange(6),
            "type": type_,
            "amount": chance.randrange(1, 10_000),
            "to_status": to_status,
            "from_status": from_status,
            "is_honest": False,
            "minutes": chance.randrange(5_000),
            "related": None,
            "order_id": None,
        }
        for kind in ("record", "change")
        for type_ in ("credit", "debit")
        for from_status in (None, *STATUSES)
        for to_status in STATUSES
    ]
    chance.shuffle(steps)
    return History(is_legal=False).take(steps)


class Mutation(ast.NodeTransformer):
    """Changes the one place with number `target`, counted in the order of visits; `places` is how many there are."""

    def __init__(self, target: int = -1) -> None:
        self.target = target
        self.places = 0

    def _is_target(self) -> bool:
        self.places += 1
        return self.places - 1 == self.target

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Take another status or type, or one point for none."""
        if node.value in SWAPS and self._is_target():
            return ast.Constant(SWAPS[node.value])
        if type(node.value) is int and self._is_target():
            return ast.Constant(node.value + 1)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Add where it subtracts."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Sub) and self._is_target():
            return ast.BinOp(node.left, ast.Add(), node.right)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Take what is equal for what is not."""
        self.generic_visit(node)
        if isinstance(node.ops[0], ast.Eq) and self._is_target():
            return ast.Compare(node.left, [ast.NotEq()], node.comparators)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Leave out a sign or a not."""
        self.generic_visit(node)
        return node.operand if self._is_target() else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Take or for and."""
        self.generic_visit(node)
        return ast.BoolOp(ast.Or(), node.values) if self._is_target() else node


def tree_of(function: object) -> ast.Module:
    """The syntax of a function without its annotations and docstring, so that only what it does is changed."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    definition.body = [node for node in definition.body if not _is_text(node)]
    definition.returns = None
    for argument in definition.args.args:
        argument.annotation = None
    return tree


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def mutants(module: ModuleType, name: str) -> list:
    """Parameters (module, name, place) for every place of a function that can be changed."""
    counter = Mutation()
    counter.visit(tree_of(getattr(module, name)))
    return [pytest.param(module, name, place, id=f"{name}-{place}") for place in range(counter.places)]


def mutant(module: ModuleType, name: str, place: int):
    """The function with one place changed, and how it reads."""
    tree = ast.fix_missing_locations(Mutation(place).visit(tree_of(getattr(module, name))))
    names = dict(vars(module))
    # Our own source, changed in one place, is what this test is about.
    exec(compile(tree, f"<{name}-{place}>", "exec"), names)  # noqa: S102
    return names[name], ast.unparse(tree)


def is_caught(events: list) -> bool:
    """Whether the two implementations disagree, or the changed one cannot even be computed."""
    try:
        return bool(disagreements(events))
    except pl.exceptions.PolarsError:
        return True


def test_unchanged_rules_are_not_caught() -> None:
    """The history that catches the mutants finds nothing in the rules as they are, and is not empty."""
    events = corpus()
    assert disagreements(events) == []
    assert len(events) == 120
    assert {frozenset(row) for row in by_aggregate(events).values()} == {
        frozenset(row) for row in by_projection(events).values()
    }


@pytest.mark.parametrize(
    ("module", "name", "place"), [*mutants(ledger.rules, "_state"), *mutants(ledger.rules, "delta")]
)
def test_every_mutant_of_the_rules_is_caught(
    module: ModuleType, name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write model with one place of its delta rules changed disagrees with the projection."""
    changed, reading = mutant(module, name, place)
    monkeypatch.setattr(module, name, changed)
    monkeypatch.setattr(ledger.account, "delta", ledger.rules.delta)
    assert is_caught(corpus()), reading


@pytest.mark.parametrize(("module", "name", "place"), mutants(projections.balances, "_deltas"))
def test_every_mutant_of_the_projection_is_caught(
    module: ModuleType, name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projection with one place of its delta expressions changed disagrees with the write model."""
    changed, reading = mutant(module, name, place)
    monkeypatch.setattr(module, name, changed)
    assert is_caught(corpus()), reading


#: Every change of status that can be told, legal or not, as (from, to).
CHANGES = [(before, after) for before in (None, *STATUSES) for after in STATUSES]


def changes() -> list[Event]:
    """One transaction for every change there is, of which that change is the only event."""
    return [
        TransactionStatusChanged(
            event_id=event_id("a", version),
            account_id="a",
            version=version,
            effective_at=START,
            recorded_at=START,
            transaction_id=f"{before}>{after}",
            type="credit",
            amount=1,
            from_status=before,
            to_status=after,
        )
        for version, (before, after) in enumerate(CHANGES, start=1)
    ]


def illegal_by_rules() -> set[str]:
    """The transactions whose change the rules of the write model call illegal."""
    return {name for code, _, name, *_ in oracle.findings(changes(), START) if code == "illegal_transition"}


def illegal_by_projection() -> set[str]:
    """The transactions whose change the projection calls illegal."""
    rows = TRANSACTIONS.fold(event_rows(changes()).lazy()).filter(pl.col("illegal_count") > 0).collect()
    return set(rows["transaction_id"])


def test_rules_and_projection_call_the_same_changes_legal() -> None:
    """The two tables of legal changes, each written down on its own, agree on every change, and some are legal."""
    assert illegal_by_projection() == illegal_by_rules()
    assert len(illegal_by_rules()) == len(CHANGES) - 9


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]}-{change[1]}")
def test_every_mutant_of_the_legal_changes_is_caught(
    change: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one change more or one less in either table, the two disagree about it."""
    before, after = change
    with monkeypatch.context() as patched:
        patched.setattr(oracle, "LEGAL_TRANSITIONS", oracle.LEGAL_TRANSITIONS ^ {change})
        assert illegal_by_rules() ^ illegal_by_projection() == {f"{before}>{after}"}
    table = projections.transactions._MAY_BECOME
    ends = tuple({*table.get(before or "", ())} ^ {after})
    monkeypatch.setattr(projections.transactions, "_MAY_BECOME", {**table, before or "": ends})
    assert illegal_by_rules() ^ illegal_by_projection() == {f"{before}>{after}"}

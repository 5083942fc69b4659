"""A bug in either implementation of the deltas is caught: every small change to the rules makes the two disagree."""

from __future__ import annotations

import ast
import inspect
import random
import textwrap
from types import ModuleType

import polars as pl
import pytest
from agreement import by_aggregate, by_projection, disagreements
from histories import ACCOUNTS, STATUSES, History

import ledger.account
import ledger.rules
import projections.balances

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

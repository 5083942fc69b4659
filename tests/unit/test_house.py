"""The rules of the house that ruff, mypy and import-linter do not know."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "ledger", "projections", "replay", "consumers", "console")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PUBLIC = [path for path in MODULES if path.stem == "__init__" or not path.stem.startswith("_")]
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted(path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py"))
ALL = [*MODULES, *TESTS, *BENCHMARKS]

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80

#: Files and functions that earn their length: path, or path::name, to the reason.
LONG: dict[str, str] = {}

SILENCER = re.compile(
    r"#\s*(?:noqa(?::\s*(?P<rules>[A-Z]+\d+(?:,\s*[A-Z]+\d+)*))?|type:\s*ignore(?P<codes>\[[a-z, -]+\])?)"
)


def _tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _tracked() -> list[Path]:
    # Which git is on PATH is the machine's choice.
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so what is tracked is unknown")
    paths = (Path(name) for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if (ROOT / path).is_file()]


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff sorts them."""
    is_constant = name.isupper() and len(name) > 1
    return (0 if is_constant else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_public_module_lists_its_names_sorted(path: Path) -> None:
    """Every public module has an `__all__` that is sorted, without repeats, and names only what exists."""
    module = importlib.import_module(_module_name(path))
    if not any(isinstance(node, ast.stmt) and not isinstance(node, ast.Expr) for node in _tree(path).body):
        return  # A room of only a docstring has no names to list.
    names = module.__all__
    assert list(names) == sorted(set(names), key=_isort_key)
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_public_names_have_docstrings(path: Path) -> None:
    """Every public function, class and method of a public module says what it does."""
    tree = _tree(path)
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    scopes: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for scope in scopes
        if not getattr(scope, "name", "").startswith("_")
        for node in scope.body
        if isinstance(node, documented) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert ast.get_docstring(tree)
    assert silent == []


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_every_test_states_its_behaviour(path: Path) -> None:
    """Every test function has a docstring of one sentence."""
    silent = []
    for node in _functions(_tree(path)):
        if not node.name.startswith("test_"):
            continue
        docstring = ast.get_docstring(node) or ""
        # One sentence: one full stop that ends it, line breaks or not.
        if not docstring.endswith(".") or re.search(r"[.!?]\s+[A-Z]", docstring):
            silent.append(f"{path}:{node.lineno} {node.name}")
    assert silent == []


@pytest.mark.parametrize("path", ALL, ids=str)
def test_module_is_named_for_what_it_does(path: Path) -> None:
    """No module or package has a name that could hold anything."""
    assert {"utils", "util", "helpers", "helper", "common", "manager", "misc"}.isdisjoint(path.with_suffix("").parts)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_nothing_is_too_long(path: Path) -> None:
    """No file is over 500 lines and no function over 80, but for those that earn it, with the reason."""
    lines = len((ROOT / path).read_text().splitlines())
    too_long = [f"{path} {lines}"] if lines > FILE_LINES_MAX and str(path) not in LONG else []
    for node in _functions(_tree(path)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX and f"{path}::{node.name}" not in LONG:
            too_long.append(f"{path}:{node.lineno} {node.name} {length}")
    assert too_long == []


def test_long_things_still_exist_and_say_why() -> None:
    """The list of long things names only what is there, each with a reason."""
    for entry, reason in LONG.items():
        path, _, name = entry.partition("::")
        assert (ROOT / path).exists(), entry
        assert not name or name in {node.name for node in _functions(_tree(Path(path)))}, entry
        assert len(reason.split()) > 2, entry


@pytest.mark.parametrize("path", ALL, ids=str)
def test_silenced_checks_say_why(path: Path) -> None:
    """Every comment that silences ruff or mypy names the rule, and for ruff says why, beside it or above."""
    source = (ROOT / path).read_text()
    lines = source.splitlines()
    bare = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        silencer = SILENCER.search(token.string) if token.type == tokenize.COMMENT else None
        if silencer is None:
            continue
        number = token.start[0]
        has_rule = bool(silencer["rules"] or silencer["codes"])
        has_reason = len(token.string[silencer.end() :].split()) > 2
        has_comment_above = number > 1 and lines[number - 2].strip().startswith("# ")
        # mypy's code says what is wrong; ruff's is a rule of style, so breaking it needs a reason.
        needs_reason = silencer["codes"] is None
        if not has_rule or (needs_reason and not (has_reason or has_comment_above)):
            bare.append(f"{path}:{number} {token.string}")
    assert bare == []


def test_ruff_ignores_say_why() -> None:
    """Every rule that pyproject.toml switches off has its reason beside it."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    rules = [line for line in lines if re.match(r'\s+"[A-Z]+\d*",', line)]
    assert len(rules) > 10
    assert [line for line in rules if not re.search(r'",\s+# \S+ \S+', line)] == []


def test_no_tracked_file_names_a_package_registry() -> None:
    """No tracked file names an index or a registry host: where packages come from is the machine's own setting."""
    # The words are put together here, so that this file is not a hit of its own.
    words = ["index" + "-url", "find" + "-links", "trusted" + "-host", "pypi" + r"\.org", "pythonhosted" + r"\.org"]
    pattern = re.compile("|".join([*words, r"https?://[^\s/]+(?::\d+)?/[^\s]*(?:simple|maven2)/"]), re.IGNORECASE)
    hits = []
    for path in _tracked():
        text = (ROOT / path).read_bytes().decode(errors="replace")
        hits += [f"{path}:{text[: hit.start()].count(chr(10)) + 1} {hit[0]}" for hit in pattern.finditer(text)]
    assert hits == []


def test_tracked_files_are_small() -> None:
    """No tracked file is over a megabyte: data is generated, never kept."""
    assert [str(path) for path in _tracked() if (ROOT / path).stat().st_size > 1_000_000] == []


def test_every_dependency_is_pinned() -> None:
    """Everything that the project needs, directly or not, is in constraints.txt at one version, by name alone."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []
    pinned = {_normal(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct = [*project["project"]["dependencies"], *chain.from_iterable(project["dependency-groups"].values())]
    build = [_normal(Requirement(text).name) for text in project["build-system"]["requires"]]
    assert sorted({*build, "pip", *_closure(direct)} - pinned) == []


def _closure(requirements: list[str]) -> set[str]:
    """Names of all that is needed on this machine, as the installed packages say."""
    names: set[str] = set()
    todo = [(Requirement(text), frozenset({""})) for text in requirements]
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = _normal(requirement.name)
        inner = frozenset({"", *requirement.extras})
        if name in names and not requirement.extras:
            continue
        names.add(name)
        todo += [(Requirement(text), inner) for text in _requires(name)]
    return names


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # A group that is not installed on this machine, so its own needs are unknown here.


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

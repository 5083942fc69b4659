"""What holds for every suite: an empty store, how slow tests are sampled, and what is said of suites that did not run.

A slow test runs with the first of its cases, unless LEDGER_REPLAY_TEST_FULL is set (`make test-full`).
LEDGER_REPLAY_TEST_REQUIRE names suites (markers, by comma) that must run: if one was skipped, the run fails.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ledger import Store

pytest_plugins = ["kafka_server", "mariadb_server", "object_store_server", "postgres_server"]

FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
REQUIRED = frozenset(filter(None, os.environ.get("LEDGER_REPLAY_TEST_REQUIRE", "").split(",")))
SUITES = ("kafka", "mariadb", "object_store", "postgres")

# Few, since there are many such tests; all the more in full.
settings.register_profile("sample", deadline=None, print_blob=True, max_examples=25)
settings.register_profile("full", deadline=None, print_blob=True, max_examples=2_000)
settings.load_profile("full" if FULL else "sample")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with nothing in it."""
    store = Store.at(tmp_path / "data")
    yield store
    store.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one case of each slow test, the first, unless all were asked for."""
    if FULL:
        return
    seen: set[str] = set()
    kept, dropped = [], []
    for item in items:
        name = item.nodeid.partition("[")[0]
        is_repeat = item.get_closest_marker("slow") is not None and name in seen
        (dropped if is_repeat else kept).append(item)
        seen.add(name)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a required suite did not run whole."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == 0 and _missing(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which suites did not run, and why."""
    lines = [f"{suite}: {count} tests: {reason}" for suite, reason, count in _skipped(terminalreporter)]
    lines += [f"{suite}: required, and did not run whole" for suite in sorted(_missing(terminalreporter))]
    if not FULL:
        lines.append("slow: one case of each test; `make test-full` runs all, and many more random examples")
    terminalreporter.section("did not run")
    for line in lines or ["nothing: every suite ran whole"]:
        terminalreporter.write_line(line)


def _skipped(reporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, int]]:
    counts = Counter(
        (next((suite for suite in SUITES if suite in report.keywords), "other"), _reason(report))
        for report in reporter.getreports("skipped")
    )
    for (suite, reason), count in sorted(counts.items()):
        yield suite, reason, count


def _reason(report: pytest.TestReport) -> str:
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")


def _missing(reporter: pytest.TerminalReporter) -> frozenset[str]:
    skipped = {suite for suite, _, _ in _skipped(reporter)}
    ran = {suite for report in reporter.getreports("passed") for suite in SUITES if suite in report.keywords}
    return REQUIRED & skipped | REQUIRED - ran

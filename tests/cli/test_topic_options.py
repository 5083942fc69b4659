"""What the options of a topic mean where they cannot be used, without any broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ledger import Store


@pytest.mark.parametrize(
    "words",
    [
        ("rebuild", "--topic", "other"),
        ("rebuild", "--accept-topic"),
        ("balances", "--topic", "other"),
        ("balances", "--workers", "2"),
    ],
)
def test_an_option_of_a_topic_with_another_source_is_bad_usage(run: Callable, words) -> None:
    """Nobody gets an answer from the store who asked about a topic."""
    said = run(*words)
    assert said.status == 2
    assert "--from topic" in said.err


@pytest.mark.parametrize("text", ["12", "0:1,0:2", "0:-1", "a:1", "0:1,", ":"])
def test_a_position_of_a_topic_names_each_partition_once(run: Callable, text) -> None:
    """What is no position is bad usage, and the answer shows what one looks like."""
    said = run("rebuild", "--from", "topic", "--until", text, "--bootstrap-servers", "127.0.0.1:1")
    assert said.status == 2
    assert "0:120,1:98" in said.err


@pytest.mark.parametrize("command", ["balances", "verify", "rebuild"])
def test_a_ledger_without_events_does_not_look_healthy(run: Callable, tmp_path: Path, command) -> None:
    """What a failed import leaves behind is no ledger to answer from."""
    empty = tmp_path / "empty"
    empty.mkdir()
    Store.at(empty).close()
    said = run(command, "--data", str(empty))
    assert said.status == 2
    assert "holds no event" in said.err
    assert "import" in said.err


def test_no_brokers_named_is_bad_usage(run: Callable) -> None:
    """A topic that nothing says the brokers of cannot be read, and the answer says how to name them."""
    said = run("balances", "--from", "topic")
    assert said.status == 2
    assert "--bootstrap-servers" in said.err

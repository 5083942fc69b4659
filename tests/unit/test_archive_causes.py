"""What a library says went wrong, as one short line."""

from __future__ import annotations

import pytest

from replay.archive.causes import LENGTH_MAX, cause, damaged_files


@pytest.mark.parametrize(
    ("said", "short"),
    [
        ("Kernel error: Json error: Truncated record whilst reading string", "Truncated record whilst reading string"),
        ("Kernel error -> Generic delta kernel error: no such thing", "no such thing"),
        ("\n  first\nsecond", "first"),
        (
            "Kernel error: found gap: X { version: 2, a: 1 } -> X { version: 4 }",
            "entries between versions 2 and 4 are missing",
        ),
        ("", "ValueError"),
    ],
)
def test_the_layers_of_a_library_are_left_away(said: str, short: str) -> None:
    """Only the first line that says something stays, without the names of the layers it came through."""
    assert cause(ValueError(said)) == short


def test_a_long_cause_is_cut_between_words() -> None:
    """What is longer than a line takes ends with dots, and no word is cut."""
    found = cause(ValueError("Url { scheme: file } " * 40))
    assert len(found) <= LENGTH_MAX
    assert found.endswith("...")
    assert set(found.removesuffix("...").split()) <= {"Url", "{", "scheme:", "file", "}", "scheme"}


def test_damaged_files_are_counted() -> None:
    """One file is named as the one, of several the first."""
    assert damaged_files({"a": "gone"}) == "1 data file is damaged, a: gone"
    assert damaged_files({"b": "cut", "a": "gone"}) == "2 data files are damaged, the first is a: gone"

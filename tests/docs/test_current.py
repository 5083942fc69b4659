"""Generated files are what their sources say today."""

from __future__ import annotations

from tests.docs.generate import ROOT, documents


def test_generated_files_are_current() -> None:
    """Every generated file is what `make docs` would write now."""
    stale = [
        str(path)
        for path, content in documents().items()
        if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != content
    ]
    assert stale == [], "run `make docs`"

"""What the log holds is held against what a client gave."""

from __future__ import annotations

import pytest

from replay.topic.batches import Span, first_missing


@pytest.mark.parametrize(
    ("offsets", "spans", "until", "missing"),
    [
        ([], [], 10, None),
        ([0, 1, 2, 5], [(0, 2), (5, 5)], 7, None),
        ([0, 1, 2], [(0, 2), (4, 9)], 4, None),
        ([0, 1, 2], [(0, 2), (4, 9)], 5, 4),
        ([0, 2, 3], [(0, 3)], 4, 1),
        ([1, 2, 3], [(0, 3)], 4, 0),
        ([0, 1, 2], [(0, 3)], 4, 3),
        ([], [(0, 3)], 4, 0),
        ([0, 1, 7, 8], [(0, 1), (3, 4), (7, 8)], 9, 3),
    ],
)
def test_the_first_missing_offset(offsets, spans, until, missing):
    """Of all records that the log says it holds before an end, the first that was not given is named."""
    assert first_missing(offsets, [Span(*span) for span in spans], until) == missing

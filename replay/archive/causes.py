"""What a library says went wrong, in words short enough for the one line that people read.

deltalake and obstore answer with nested errors, debugging output and file listings, of which the first few words say
what is the matter; the rest is in the traceback that --debug shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["cause", "damaged_files"]

LENGTH_MAX = 100

#: Layers of the client through which an error came, which mean nothing to anybody else.
_LAYERS = re.compile(r"^(?:(?:Kernel error|Generic delta kernel error|Generic \w+ error|Json error)(?: ->|:)?\s+)+")
_STEP = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS}"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GAP = re.compile(r"found gap: .*?version: (\d+).*?version: (\d+)", re.DOTALL)


def cause(error: BaseException) -> str:
    """Return the cause of an error in one short line, without what only a debugger wants to know."""
    words = str(error)
    gap = _GAP.search(words)
    if gap is not None:
        return f"entries between versions {gap[1]} and {gap[2]} are missing"
    lines = [_COLOUR.sub("", line).strip() for line in words.splitlines() if line.strip()]
    # Some are told as steps, of which the last one is what happened.
    steps = [line.removeprefix(_STEP).strip() for line in lines if line.startswith(_STEP)]
    first = steps[-1] if steps else next(iter(lines), type(error).__name__)
    short = _LAYERS.sub("", first) or first
    if len(short) <= LENGTH_MAX:
        return short
    return short[: LENGTH_MAX - 3].rsplit(" ", 1)[0].rstrip(" ,:;{(") + "..."


def damaged_files(bad: Mapping[str, str]) -> str:
    """Return how many files are damaged and the name of the first, given what is wrong with each of them."""
    name, reason = min(bad.items())
    if len(bad) == 1:
        return f"1 data file is damaged, {name}: {reason}"
    return f"{len(bad):,} data files are damaged, the first is {name}: {reason}"

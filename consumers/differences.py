"""Differences as a comparison finds them, and as the table of findings keeps them: values there are text."""

from __future__ import annotations

import re

from ledger.findings import Difference, Finding
from replay.differences import Drifted, Value

__all__ = ["difference_of", "drifted_of"]

#: Columns whose values are text on both sides.
_TEXT_FIELDS = frozenset({"status", "locked_at", "chain", "last_effective_at"})


def difference_of(drifted: Drifted) -> Difference:
    """Return a difference as the table keeps it."""
    return Difference(
        account_id=drifted.account_id,
        field=drifted.field,
        cause=drifted.cause,
        live=_text(drifted.live),
        replayed=_text(drifted.replayed),
        difference=_text(drifted.difference),
        first_event=drifted.first_event,
        evidence=drifted.evidence,
    )


def drifted_of(finding: Finding) -> Drifted:
    """Return what the table keeps as the difference that it was."""
    difference = _value(finding, finding.difference)
    return Drifted(
        account_id=finding.account_id,
        field=finding.field,
        live=_value(finding, finding.live),
        replayed=_value(finding, finding.replayed),
        difference=difference if isinstance(difference, int) else None,
        cause=finding.cause or "",
        first_event=finding.first_event,
        evidence=finding.evidence,
    )


def _text(value: Value) -> str | None:
    return None if value is None else str(value)


def _value(finding: Finding, text: str | None) -> Value:
    is_number = text is not None and finding.field not in _TEXT_FIELDS and re.fullmatch(r"-?[0-9]+", text)
    return int(text) if text is not None and is_number else text

"""What certificates and counts read like to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.certificate import Certificate

__all__ = ["certificate_lines", "count", "first_few", "missing_lines"]

SHOWN_MAX = 10


def count(number: int, word: str, plural: str | None = None) -> str:
    """Return a number with its word: `1 event`, `2,000 events`."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def first_few(lines: Sequence[str], what: str) -> list[str]:
    """Return the first lines, and one that says how many more there are."""
    rest = len(lines) - SHOWN_MAX
    return [*lines[:SHOWN_MAX], *([f"... and {rest:,} more {what}: --json lists all"] if rest > 0 else [])]


def certificate_lines(certificate: Certificate) -> list[str]:
    """Return what a replay vouches for, and by name what it does not."""
    lines = [
        f"{certificate.verdict}: {count(certificate.events, 'event')} of {count(certificate.accounts, 'account')} "
        f"replayed from the {certificate.source} up to position {certificate.position:,}",
        f"digest {certificate.digest}",
    ]
    if certificate.resumed_from is not None:
        lines.append(f"went on from the checkpoint at position {certificate.resumed_from:,} of an interrupted run")
    if certificate.repeats:
        lines.append(f"{count(certificate.repeats, 'event')} came more than once and counted once")
    return [*lines, *missing_lines(certificate)]


def missing_lines(certificate: Certificate) -> list[str]:
    """Return by name what a replay could not read and whom it does not vouch for."""
    poison = [
        f"cannot read the event at position {found.position:,}"
        f" ({found.account_id or 'no account'} version {found.version}): {found.reason}"
        for found in certificate.poison
    ]
    parked = [
        f"not certified: {found.account_id} from version {found.version:,}, {found.reason}: {found.details}"
        for found in certificate.parked
    ]
    return [*first_few(poison, "unreadable events"), *first_few(parked, "accounts that are not certified")]

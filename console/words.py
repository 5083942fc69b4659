"""What certificates and counts read like to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from replay.certificate import Certificate, Damaged, Position
    from schemas import PoisonEvent

__all__ = [
    "certificate_lines",
    "count",
    "damaged_lines",
    "first_few",
    "live_rows",
    "missing_lines",
    "parked_order_lines",
    "position_text",
    "size",
]

SHOWN_MAX = 10

#: What to do about a partition that could not be read, by reason.
_ADVICE = {
    "unreachable": "when the brokers are back, run it again: it goes on from there",
    "stalled": "when the transaction is ended, or its time is over, run it again: it goes on from there",
    "corrupt": "have the partition repaired from a replica, or replay from the store and publish to a new topic",
    "unreadable": "see the reason, then run it again",
    "gone": "the topic changed meanwhile: run it again, or replay from the store",
}


def count(number: int, word: str, plural: str | None = None) -> str:
    """Return a number with its word: `1 event`, `2,000 events`."""
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def size(number: int) -> str:
    """Return a number of bytes as people read it: `999 bytes`, `1.2 MB`."""
    if number < 1_000:
        return count(number, "byte")
    units = ("kB", "MB", "GB", "TB")
    scaled = [(number / 1_000 ** (power + 1), unit) for power, unit in enumerate(units)]
    # The first unit in which no more than three digits stand before the point.
    value, unit = next((each for each in scaled if round(each[0], 1) < 1_000), scaled[-1])
    return f"{value:,.1f} {unit}"


def first_few(lines: Sequence[str], what: str) -> list[str]:
    """Return the first lines, and one that says how many more there are."""
    rest = len(lines) - SHOWN_MAX
    return [*lines[:SHOWN_MAX], *([f"... and {rest:,} more {what}: --json lists all"] if rest > 0 else [])]


def live_rows(kind: str, table: str) -> str:
    """Return which live rows a recovery corrects (`replay.recovery.plan.Target`) as people read it."""
    return {"read_model": "our read model", "imported": "imported rows"}.get(kind, f"table {table}")


def parked_order_lines(parked: pl.DataFrame) -> list[str]:
    """Return what is parked of orders (`ledger.orders.PARKED_SCHEMA`) as people read it."""
    return [
        f"a row of order {row['order_id']} was rejected: {row['reason']}"
        if row["partition"] is None
        else f"cannot read the order at partition {row['partition']}, offset {row['position']:,}"
        f" ({row['order_id'] or 'of no known order'}): {row['reason']}"
        for row in parked.iter_rows(named=True)
    ]


def position_text(position: Position) -> str:
    """Return a position as people read it and --until takes it: 1,200, or 0:120,1:98."""
    if isinstance(position, int):
        return f"{position:,}"
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(position.items()))


#: How to bring back what the store has lost, by where it is still known.
_BRING_BACK = {
    "topic": "`import events --from topic --dry-run`",
    "archive": "bring them back with `import events` from a topic or an export, or a backup",
}


def damaged_lines(damaged: Sequence[Damaged]) -> list[str]:
    """Return the damaged data files of an archive by name, and whose events they had."""
    lines = [
        f"damaged: {found.file}: {found.reason}; {count(found.events, 'event')} were written to it, of {_whose(found)}"
        for found in damaged
    ]
    return first_few(lines, "damaged files")


def _whose(found: Damaged) -> str:
    """Return the accounts that a file may have events of: the log says where they begin and end, not how many."""
    if found.first_account == found.last_account:
        return f"account {found.first_account}"
    return f"accounts in the range from {found.first_account} to {found.last_account}"


def _replayed(certificate: Certificate) -> str:
    """Return how many events were replayed, of whom and from where."""
    where = f"replayed from the {certificate.source} up to position {position_text(certificate.position)}"
    if not certificate.damaged:
        return f"{count(certificate.events, 'event')} of {count(certificate.accounts, 'account')} {where}"
    # `accounts` counts those of the whole archive, of whom the ones that a damaged file may have are left out.
    files = count(len(certificate.damaged), "damaged file")
    return f"{count(certificate.events, 'event')} {where}, of accounts that cannot be in {files}"


def _place(certificate: Certificate, found: PoisonEvent) -> str:
    if found.partition is None:
        return f"position {found.position:,}"
    return f"topic {certificate.topic}, partition {found.partition}, offset {found.position:,}"


def certificate_lines(certificate: Certificate) -> list[str]:
    """Return what a replay vouches for, and by name what it does not."""
    lines = [
        f"{certificate.verdict}: {_replayed(certificate)}",
        f"digest {certificate.digest}",
    ]
    if certificate.resumed_from is not None:
        resumed = position_text(certificate.resumed_from)
        lines.append(f"went on from the checkpoint at position {resumed} of an interrupted run")
    if certificate.beyond_store:
        accounts = count(certificate.beyond_store, "account")
        lines.append(f"{accounts} have events there that the store has not: {_BRING_BACK[certificate.source]}")
    if certificate.repeats:
        lines.append(f"{count(certificate.repeats, 'event')} came more than once, and counted once")
    return [*lines, *missing_lines(certificate)]


def missing_lines(certificate: Certificate) -> list[str]:
    """Return by name what a replay could not read and whom it does not vouch for."""
    unread = [
        f"partition {found.partition} is read only to offset {found.offset:,} of {found.until:,}, {found.reason}: "
        f"{found.details}; nothing is certified for its {count(found.accounts, 'account')}; "
        + ("run `archive --from topic` again" if certificate.source == "archive" else _ADVICE[found.reason])
        for found in certificate.unread
    ]
    poison = [
        f"cannot read the event at {_place(certificate, found)}"
        f" ({found.account_id or 'no account'} version {found.version or 'unknown'}): {found.reason}"
        for found in certificate.poison
    ]
    parked = [
        f"not certified: {found.account_id} from version {found.version:,}, {found.reason}: {found.details}"
        for found in certificate.parked
    ]
    return [
        *damaged_lines(certificate.damaged),
        *unread,
        *first_few(poison, "unreadable events"),
        *first_few(parked, "accounts that are not certified"),
    ]

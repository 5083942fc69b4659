"""Why a live row differs: its account is replayed alone, and each single fault that would explain the row is tried.

In this order, so that evidence that fits two has one class:

    log_damaged     the log cannot vouch for the account (a gap, an unreadable event, a lost end): nothing can be said
    row_missing     live has no row of an account that the log knows
    row_extra       live has a row of an account that the log never heard of
    shadow_wrong    live is what the log says: the rows that it was compared with are wrong
    missed_event    live is what the log says without exactly one of its events, any of them
    applied_twice   live is what the log says with exactly one of its events twice: at once, or again after all others
    missed_event    live is what the log said at an earlier version: it stopped there, all later events were missed
    foreign_write   nothing of this gives the row: something else wrote it, or two faults met

What a fault comes to is compared in every column that is compared at all, points and status exactly. The columns that
say how far a row is (`version`, `chain`, `last_effective_at`) may be whatever a projector with that fault leaves: one
that takes them from the last event, one that counts, one that keeps the latest time. Where only these differ no event
is blamed, unless all of them are those of one earlier version: then live stopped there.

That live stopped is taken only where it had applied a transaction or a status event by then, or says by these columns
that it is there: a row of zeros is the beginning of every stream.

What a row alone cannot tell apart:

- a change by hand by just the points of an event, and that event missed or applied twice
- events of the same worth: the first is named, and how many there are
- an event missed, and its opposite applied twice
- points that were written back to what they once were, and a row that missed all events since
- a changed status in a table without lock times, and a lock or an unlock that was missed

An event that changes no compared column cannot be seen missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from ledger.read_model import ROW_SCHEMA
from replay.certificate import Position
from replay.differences import Drifted, Value, differs, is_compared
from replay.steps import SUMS, AccountsSource, Steps, steps
from schemas import format_time

__all__ = ["Cause", "entries", "explain_accounts", "explained"]

#: Events of accounts that are replayed alone at once: what they take in memory is a bound.
EXPLAINED_EVENTS = 100_000
EXPLAINED_ACCOUNTS = 5_000

_STATUS = ("status", "locked_at", "status_version")
_REACHED = ("version", "chain", "last_effective_at")


class Cause(NamedTuple):
    """The class of a difference, the id of the first event that live cannot be explained with, and the evidence."""

    code: str
    first_event: str | None
    evidence: str


def explain_accounts(
    source: AccountsSource, wrong: pl.DataFrame, *, until: Position, fields: Sequence[str]
) -> dict[str, Cause]:
    """Return the cause of every account in `wrong`, replaying some of the accounts at a time up to `until`.

    `wrong` is as `explained` takes it; a column `replayed_version` says how many events are to be read.
    """
    causes: dict[str, Cause] = {}
    for some in _slices(wrong):
        causes |= explained(steps(source, some["account_id"].to_list(), until=until), some, fields=fields)
    return causes


def _slices(wrong: pl.DataFrame) -> Iterator[pl.DataFrame]:
    events = pl.col("replayed_version").fill_null(0) if "replayed_version" in wrong.columns else pl.lit(1)
    part = events.cum_sum() // EXPLAINED_EVENTS
    for (_,), some in wrong.group_by(part.alias("part"), maintain_order=True):
        yield from some.iter_slices(EXPLAINED_ACCOUNTS)


def explained(found: Steps, wrong: pl.DataFrame, *, fields: Sequence[str]) -> dict[str, Cause]:
    """Return the cause of every account in `wrong`, given their steps up to the moment that they were compared at.

    `wrong` has `account_id` and the live columns that `fields` names (`OWN_FIELDS`, `FOREIGN_FIELDS` or some of them,
    `balance` among them); an account that live has no row of has null in all. What is explained is live, against the
    steps; columns of the side that it was compared with are not looked at. For a moment before the end of the steps,
    filter their frame.
    """
    said = found.rows().rename(lambda name: name if name == "account_id" else f"said_{name}")
    both = (
        wrong.select("account_id", *(pl.col(name).cast(ROW_SCHEMA[name]) for name in fields))
        .join(said, on="account_id", how="left", maintain_order="left")
        .with_columns(has_live=pl.col("balance").is_not_null(), has_said=pl.col("said_version").is_not_null())
        .with_columns(
            pl.col("has_live").and_(differs(name, fields, than="said_")).alias(f"differs_{name}") for name in fields
        )
        .with_columns(is_damaged=pl.col("account_id").is_in(list(found.parked)))
    )
    is_other = pl.any_horizontal(f"differs_{name}" for name in fields)
    whole = pl.col("has_live") & pl.col("has_said") & ~pl.col("is_damaged")
    causes = _tried(found.frame, both.filter(whole & is_other), fields)
    rest = both.filter(~pl.col("account_id").is_in(list(causes)))
    first = dict(found.frame.filter(pl.col("version") == 1).select("account_id", "event_id").iter_rows())
    for account_id, has_live, has_said in rest.select("account_id", "has_live", "has_said").iter_rows():
        parked = found.parked.get(account_id)
        if parked is not None:
            where = f"{parked.reason} at version {parked.version}: {parked.details}".removesuffix(": ")
            causes[account_id] = Cause("log_damaged", None, f"the log cannot vouch for this account ({where})")
        elif has_said and not has_live:
            causes[account_id] = Cause("row_missing", first.get(account_id), "live has no row of this account")
        elif has_live and not has_said:
            causes[account_id] = Cause("row_extra", None, "the log has no event of this account")
        else:
            causes[account_id] = _SHADOW_WRONG
    return causes


_SHADOW_WRONG = Cause("shadow_wrong", None, "live is what the log says; the rows that it was compared with are wrong")


def _tried(frame: pl.DataFrame, live: pl.DataFrame, fields: Sequence[str]) -> dict[str, Cause]:
    """Try every fault of every event of accounts whose live row is there and is not what the log says."""
    if live.is_empty():
        return {}
    core = [name for name in fields if name not in _REACHED]
    compared = live.select(
        "account_id",
        *(pl.col(name).alias(f"live_{name}") for name in fields),
        *(is_compared(name, fields, than="said_").alias(f"compared_{name}") for name in fields),
        has_core=pl.any_horizontal(f"differs_{name}" for name in core),
    )
    hits = (
        _with_neighbours(frame, fields)
        .join(compared, on="account_id", maintain_order="left")
        .select(
            "account_id",
            "version",
            # Whoever missed the only event has no row at all.
            missed=pl.col("has_core") & (pl.col("end_version") > 1) & _matches(fields, _missed),
            twice=pl.col("has_core") & _matches(fields, _twice),
            stopped=_has_stopped(fields),
        )
    )
    at = pl.col("version")
    judged = hits.group_by("account_id").agg(
        *(at.filter(name).min().alias(name) for name in ("missed", "twice")),
        # The last version that live agrees with.
        stopped=at.filter("stopped").max(),
        versions=at.max(),
        missed_count=pl.col("missed").sum(),
        twice_count=pl.col("twice").sum(),
    )
    return _causes(frame, judged.join(live, on="account_id"), fields)


def _with_neighbours(frame: pl.DataFrame, fields: Sequence[str]) -> pl.DataFrame:
    """Put beside each step what the account is in the end, was before the step, and would be by later steps alone."""

    def later(name: str, least: bool) -> pl.Expr:
        backward = pl.col(name).reverse()
        running = (backward.cum_min() if least else backward.cum_max()).forward_fill()
        return running.reverse().shift(-1)

    columns = {
        **{f"end_{name}": pl.col(f"after_{name}").last() for name in fields if name != "version"},
        **{f"before_{name}": pl.col(f"after_{name}").shift(1) for name in fields if name not in {*SUMS, "version"}},
        "end_version": pl.col("version").last(),
        "end_status_version": pl.col("after_status_version").last(),
        "later_closed_version": later("told_closed_version", least=True),
        "later_effective_at": later("effective_at", least=False),
        "has_begun": pl.col("event").ne("account.opened").cum_max(),
    }
    beside = frame.with_columns(expression.over("account_id").alias(name) for name, expression in columns.items())
    return beside.with_columns(pl.col("before_status").fill_null("active")) if "status" in fields else beside


def _matches(fields: Sequence[str], leaves: Callable[[str], list[pl.Expr]]) -> pl.Expr:
    """Whether live has, in each column that is compared, one of the values that a fault leaves there."""
    return pl.all_horizontal(
        ~pl.col(f"compared_{name}")
        | pl.any_horizontal(pl.col(f"live_{name}").eq_missing(each) for each in leaves(name))
        for name in fields
    )


def _missed(name: str) -> list[pl.Expr]:
    """What a column may be where this step's event was missed and all others were applied."""
    end, before = pl.col(f"end_{name}"), pl.col(f"before_{name}")
    if name in SUMS:
        return [end - pl.col(name)]
    if name in _STATUS:
        is_last_word = pl.col("version") == pl.col("end_status_version")
        return [pl.when(is_last_word).then(before).otherwise(end)]
    if name == "closed_version":
        return [pl.min_horizontal(before, "later_closed_version")]
    if name == "last_effective_at":
        return [end, pl.max_horizontal(before, "later_effective_at")]
    # Of the last event that was applied, which may be the last but one; whoever counts is at one less in any case.
    is_last = pl.col("version") == pl.col("end_version")
    return [end, end - 1] if name == "version" else [end, pl.when(is_last).then(before).otherwise(end)]


def _twice(name: str) -> list[pl.Expr]:
    """What a column may be where this step's event was applied twice, at once or again after all others.

    A status event that is applied twice at once changes nothing, so only its coming again at the end counts.
    """
    end = pl.col(f"end_{name}")
    if name in SUMS:
        return [end + pl.col(name)]
    if name in _STATUS:
        told = pl.col("version" if name == "status_version" else f"told_{name}")
        return [pl.when(pl.col("told_status").is_null()).then(end).otherwise(told)]
    if name == "version":
        return [end, end + 1, pl.col("version")]
    again = {"chain": "after_chain", "last_effective_at": "effective_at"}
    return [end, *([pl.col(again[name])] if name in again else [])]


def _has_stopped(fields: Sequence[str]) -> pl.Expr:
    """Whether live is what the log said after this step; the last one is not that, since live is wrong."""
    reached = [name for name in _REACHED if name in fields]
    after = {name: pl.col("version" if name == "version" else f"after_{name}") for name in fields}
    is_exact = pl.all_horizontal(
        pl.lit(value=bool(reached)), *(pl.col(f"live_{name}").eq_missing(after[name]) for name in reached)
    )
    # Where the points or the status are of an earlier version, the other columns may be of the last event.
    matches = _matches(fields, lambda name: [after[name], *([pl.col(f"end_{name}")] if name in reached else [])])
    return matches & (is_exact | (pl.col("has_core") & pl.col("has_begun")))


def _causes(frame: pl.DataFrame, judged: pl.DataFrame, fields: Sequence[str]) -> dict[str, Cause]:
    at = pl.coalesce("missed", "twice", pl.col("stopped") + 1)
    named = frame.select("account_id", "version", "event_id")
    blamed = judged.with_columns(version_blamed=at).join(
        named, left_on=["account_id", "version_blamed"], right_on=["account_id", "version"], how="left"
    )
    return {row["account_id"]: _cause(row, fields) for row in blamed.iter_rows(named=True)}


def _cause(row: dict[str, Any], fields: Sequence[str]) -> Cause:
    event, version = row["event_id"], row["version_blamed"]
    if row["missed"] is not None:
        evidence = f"live is what the log says without event {event} (version {version})"
        return Cause("missed_event", event, evidence + _equals(row["missed_count"]))
    if row["twice"] is not None:
        evidence = f"live is what the log says with event {event} (version {version}) applied twice"
        return Cause("applied_twice", event, evidence + _equals(row["twice_count"]))
    if row["stopped"] is not None:
        missed = row["versions"] - row["stopped"]
        last = f"it and {missed - 1} later ones were missed" if missed > 1 else "it is the last one"
        evidence = f"live is what the log said at version {row['stopped']}, before event {event}; {last}"
        if "version" in fields and row["version"] != row["stopped"]:
            evidence += f"; the row itself says that it is at version {row['version']}"
        return Cause("missed_event", event, evidence)
    return Cause("foreign_write", None, _unexplained(row, fields))


def _equals(count: int) -> str:
    return "" if count == 1 else f"; {count} events of this account explain it as well as each other, this is the first"


def _unexplained(row: dict[str, Any], fields: Sequence[str]) -> str:
    """Say what is known of a row that no single fault explains."""
    wrong = [name for name in fields if row[f"differs_{name}"]]
    told = ", ".join(f"{name} by {row[name] - row[f'said_{name}']:+d}" if name in SUMS else name for name in wrong)
    if any(name in SUMS for name in wrong):
        return f"no one event that was missed or applied twice explains this row; wrong: {told}"
    return f"the points agree; another column was written by something else: {told}"


def entries(wrong: pl.DataFrame, causes: Mapping[str, Cause], *, fields: Sequence[str]) -> list[Drifted]:
    """Return each difference of some rows, in their order, with the cause of its account.

    `wrong` has `account_id`, the live columns that `fields` names, and those of the other side with `replayed_` before
    their names (and `replayed_status_version`); a row that one side does not have is null in all of its columns.
    """
    shown = wrong.with_columns(differs(name, fields).alias(f"differs_{name}") for name in fields)
    return [entry for row in shown.iter_rows(named=True) for entry in _entries(row, fields, causes[row["account_id"]])]


def _entries(row: dict[str, Any], fields: Sequence[str], cause: Cause) -> Iterator[Drifted]:
    is_whole = row["balance"] is not None and row["replayed_balance"] is not None
    for field in [name for name in fields if row[f"differs_{name}"]] if is_whole else ["row"]:
        # A row that is missing on one side is told by its balance on the other.
        column = field if is_whole else "balance"
        live, replayed = row[column], row[f"replayed_{column}"]
        are_numbers = isinstance(live, int) and isinstance(replayed, int)
        yield Drifted(
            account_id=row["account_id"],
            field=field,
            live=_value(live),
            replayed=_value(replayed),
            difference=live - replayed if are_numbers else None,
            cause=cause.code,
            first_event=cause.first_event,
            evidence=cause.evidence,
        )


def _value(value: int | str | bytes | datetime | None) -> Value:
    if isinstance(value, bytes):
        return value.hex()
    return format_time(value) if isinstance(value, datetime) else value

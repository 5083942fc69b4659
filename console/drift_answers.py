"""What `drift` answers: differences as a table, what a watch came to, and what stands in the table of findings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import polars as pl

from console.answer import Answer
from console.drift_words import Explanation, explanation_lines, explanations
from console.words import certificate_lines, count, first_few, position_text
from consumers.differences import drifted_of
from ledger import findings
from replay.comparison.rejected import SEE_REJECTS
from replay.steps import steps
from replay.store_source import StoreSource

if TYPE_CHECKING:
    from consumers.watching import Watched
    from ledger.findings import Finding
    from ledger.importing.rejects import Rejects
    from ledger.store import Store
    from replay.differences import Drifted
    from replay.drift import Drift

__all__ = ["SIDES", "Explained", "compared_answer", "differences", "explained", "findings_answer", "watched_answer"]

#: What the live side is, in words.
SIDES = {"imported": "imported accounts rows", "read_model": "our own read model", "foreign": "the foreign table"}

#: Accounts that are explained at length; the table has a line of each.
EXPLAINED_MAX = 10


class _Open(NamedTuple):
    """What is open of a comparison."""

    drifted: list[Finding]
    suspected: list[str]
    uncompared: list[Finding]


class Explained(NamedTuple):
    """The first accounts that differ at length, the same in lines, and how many more accounts differ."""

    accounts: list[Explanation]
    lines: list[str]
    more: int

    @property
    def fields(self) -> dict[str, object]:
        """What stands in the JSON document."""
        return {"explained": self.accounts, "unexplained_count": self.more}

    @property
    def notes(self) -> list[str]:
        """The lines, and how many more there are."""
        return [*self.lines, *([f"... and {count(self.more, 'account')} more that differ"] if self.more else [])]


def compared_answer(found: Drift, rejects: Rejects | None, *, told: Explained | None) -> Answer:
    """Return the answer of one comparison; `rejects` are live rows that could not be read, `told` explains."""
    uncompared = [f"not compared: {account_id}" for account_id in found.uncompared]
    suspected = [f"suspected: {account_id} differs, and did not settle" for account_id in found.suspected]
    unread = 0 if rejects is None else rejects.count
    file = None if rejects is None else rejects.file
    unreadable = [f"{count(unread, 'live row')} could not be read: see {file}"] if unread else []
    why_not = [found.why_not] if found.why_not else []
    accounts = count(found.compared, "account")
    headline = f"{found.verdict}: {accounts} compared with {SIDES[found.live]}, {found.drifted:,} differ"
    return Answer(
        # Equal but for rows that nobody could read is not equal.
        verdict="INCOMPARABLE" if unread else found.verdict,
        fields={
            "compared": found.compared,
            "drifted": found.drifted,
            "accounts": found.accounts,
            "suspected": found.suspected,
            "uncompared": found.uncompared,
            "live": found.live,
            **({"rejected": unread, "rejects": str(file)} if unread else {}),
            **({"why_not": found.why_not} if found.why_not else {}),
            **({} if told is None else told.fields),
            "certificate": found.certificate,
        },
        table=differences(found.accounts, explain=told is not None),
        summary=[*certificate_lines(found.certificate), "", headline],
        notes=[
            *why_not,
            *unreadable,
            *first_few(suspected, "accounts"),
            *first_few(uncompared, "accounts"),
            *([] if told is None else told.notes),
        ],
        # What is uncompared or unread hides no difference that was found.
        also=["DRIFT"] if found.drifted else [],
    )


def explained(store: Store, accounts: Sequence[Drifted], *, until: int | None, is_own: bool) -> Explained:
    """Return what the first accounts that differ read like, each replayed alone up to a position (None: the head).

    The table has all of them; `is_own` says that live is our own read model.
    """
    account_ids = list(dict.fromkeys(each.account_id for each in accounts))
    first = frozenset(account_ids[:EXPLAINED_MAX])
    if not first:
        return Explained([], [], 0)
    shown = [each for each in accounts if each.account_id in first]
    with StoreSource.snapshot(store) as source:
        replayed = steps(source, sorted(first), until=source.head() if until is None else until)
    told = explanations(shown, replayed, is_own=is_own)
    return Explained(told, explanation_lines(shown, told), len(account_ids) - len(first))


def watched_answer(store: Store, comparison: str, watched: Watched, *, live: str, explain: bool = False) -> Answer:
    """Return the answer of a watch that came to its end: what is open by now, and whether a whole round vouches for it.

    INCOMPARABLE where no round was whole, or where an account could not be compared or is suspected still. It is never
    better than what the last whole round came to.
    """
    with store.snapshot() as connection:
        open_ = _split(findings.listed(connection, comparison))
    drifted = [drifted_of(each) for each in open_.drifted]
    accounts = len({each.account_id for each in drifted})
    verdict = _verdict(watched, open_)
    where = "nowhere" if watched.position is None else position_text(watched.position)
    compared = count(watched.compared, "account")
    told = _explained_findings(store, open_.drifted, is_own=live == "read_model") if explain else None
    summary = [
        f"{count(watched.events, 'event')} followed, up to position {where}",
        f"{verdict}: {count(watched.rounds, 'whole round')}, the last of {compared} compared with {SIDES[live]}; "
        f"{accounts:,} differ",
    ]
    return Answer(
        verdict=verdict,
        fields={
            "compared": watched.compared,
            "drifted": accounts,
            "accounts": drifted,
            "suspected": open_.suspected,
            "uncompared": sorted({each.account_id for each in open_.uncompared}),
            "rejected": watched.rejected,
            "live": live,
            "comparison": comparison,
            "rounds": watched.rounds,
            "events": watched.events,
            "position": _as_json(watched),
            **({} if told is None else told.fields),
        },
        table=differences(drifted, explain=explain),
        summary=summary,
        notes=[*_not_settled(open_, watched), *([] if told is None else told.notes)],
        also=["DRIFT"] if accounts else [],
    )


def _verdict(watched: Watched, open_: _Open) -> str:
    if not watched.rounds or open_.suspected or open_.uncompared or watched.verdict == "INCOMPARABLE":
        return "INCOMPARABLE"
    return "DRIFT" if open_.drifted or watched.verdict == "DRIFT" else "EQUAL"


def _explained_findings(store: Store, found: Sequence[Finding], *, is_own: bool) -> Explained:
    """Return what findings read like, those of each account as of the position that they were made at."""
    by_account: dict[str, list[Finding]] = {}
    for each in found:
        by_account.setdefault(each.account_id, []).append(each)
    accounts: list[Explanation] = []
    lines: list[str] = []
    for own in islice(by_account.values(), EXPLAINED_MAX):
        places = [msgspec.json.decode(each.position) for each in own]
        # A column that stayed as it was keeps its position, so the last of them holds for all. What a topic has where
        # the store does not say: then the values decide.
        until = max(places) if all(isinstance(place, int) for place in places) else None
        told = explained(store, [drifted_of(each) for each in own], until=until, is_own=is_own)
        accounts += told.accounts
        lines += [*([""] if lines else []), *told.lines]
    return Explained(accounts, lines, len(by_account) - len(accounts))


def _as_json(watched: Watched) -> object:
    position = watched.position
    return {str(partition): at for partition, at in position.items()} if isinstance(position, dict) else position


def _not_settled(open_: _Open, watched: Watched) -> list[str]:
    suspected = [f"suspected: {account_id} differs, and may still settle" for account_id in open_.suspected]
    uncompared = [f"not compared: {each.account_id}: {each.evidence}" for each in open_.uncompared]
    unvouched = [] if watched.rounds else ["no whole round was begun and ended here, so nothing is vouched for"]
    unread = [f"{count(watched.rejected, 'live row')} could not be read: {SEE_REJECTS}"] if watched.rejected else []
    is_over = watched.verdict == "DRIFT" and not open_.drifted
    over = ["the last whole round found a difference that is gone by now"] if is_over else []
    return [*unvouched, *unread, *over, *first_few(suspected, "accounts"), *first_few(uncompared, "accounts")]


def _split(found: Sequence[Finding]) -> _Open:
    return _Open(
        drifted=[each for each in found if each.state == "drift"],
        suspected=[each.account_id for each in found if each.state == "suspected"],
        uncompared=[each for each in found if each.state == "uncompared"],
    )


def findings_answer(found: Sequence[Finding], whole: dict[str, str | None]) -> Answer:
    """Return what stands in the table of findings; `whole` says of each comparison when its last round was whole.

    INCOMPLETE where no comparison ever was, since no finding means nothing then.
    """
    open_ = [each for each in found if each.state != "healed"]
    rows = [_finding_row(each) for each in found]
    texts = [{name: _cell(value, pl.String()) for name, value in row.items()} for row in rows]
    verdict = "FINDINGS" if open_ else "CLEAN" if whole and all(whole.values()) else "INCOMPLETE"
    rounds = [
        f"{name}: " + ("no whole round yet" if at is None else f"last whole round at {at}")
        for name, at in whole.items()
    ]
    return Answer(
        verdict=verdict,
        fields={"findings_count": len(open_), "comparisons": whole, "findings": rows},
        table=pl.DataFrame(texts, schema=dict.fromkeys(_FINDING, pl.String())),
        table_name=None,
        summary=[f"{verdict}: {count(len(open_), 'open finding')}", *rounds],
        notes=[] if whole else ["nothing was ever compared for ever here: `drift --watch` or `watch` does"],
    )


_FINDING = (
    *("comparison", "account_id", "field", "state", "class", "live", "replayed", "difference"),
    *("opened_at", "seen_at", "healed_at", "first_event", "evidence"),
)


def _finding_row(finding: Finding) -> dict[str, int | str | None]:
    """Return a finding by the names of the table; where its column is a number, its values are."""
    as_it_was = drifted_of(finding)
    values = {name: getattr(as_it_was, name) for name in ("live", "replayed", "difference")}
    row = finding._asdict() | {"class": finding.cause} | values
    return {name: row[name] for name in _FINDING}


def differences(entries: Sequence[Drifted], *, explain: bool) -> pl.DataFrame:
    """Return differences as a table; with `explain` where each begins, and the evidence."""
    columns = ["account_id", "field", "live", "replayed", "difference", "class"]
    if explain:
        columns += ["first_event", "evidence"]
    # A difference of two numbers may be past int64, which no file of columns takes.
    is_wide = any(each.difference is not None and abs(each.difference) >= 2**63 for each in entries)
    number = pl.String() if is_wide else pl.Int64()
    schema = {name: number if name == "difference" else pl.String() for name in columns}
    rows = [msgspec.to_builtins(each) for each in entries]
    cells = [{name: _cell(row[name], schema[name]) for name in columns} for row in rows]
    return pl.DataFrame(cells, schema=schema)


def _cell(value: int | str | None, kind: pl.DataType) -> int | str | None:
    return value if value is None or kind.is_integer() else str(value)

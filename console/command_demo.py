"""The command `demo`: plays the story and says whether every damage was found, and nothing else."""

from __future__ import annotations

import sys
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.run import NO_TABLE, Run, command

if TYPE_CHECKING:
    from console.demo import Demo

__all__ = ["fresh_folder", "register"]

DEFAULT_FOLDER = Path("demo-data")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    command(app, "demo", formats=NO_TABLE)(demo)


def demo(
    run: Run,
    *,
    accounts: Annotated[int, typer.Option("--accounts", metavar="N", help="How many accounts.")] = 200,
    events: Annotated[int, typer.Option("--events", metavar="M", help="How many transactions.")] = 5_000,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="The same seed tells the same story.")] = 1,
) -> Answer:
    """Make a ledger, damage it in every way we know, find each damage, and recover from all of it.

    It works in ./demo-data or the folder that --data names, in a subfolder where that is not empty.
    """
    from console.demo import play

    folder = fresh_folder(run.options.data or DEFAULT_FOLDER)
    say = _silent if run.options.as_json or run.options.format == "json" else _print
    story = play(folder=folder, accounts=accounts, events=events, seed=seed, now=run.now, say=say)
    ending = _ending(story)
    report = folder / "reports" / "demo.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join([*story.lines, "", *ending, ""]))
    is_right = not (story.missed or story.unexpected or story.wrong)
    return Answer(
        verdict="OK" if is_right else "FAILED",
        fields={
            "planted": story.planted,
            "found": story.found,
            "missed": story.missed,
            "unexpected": story.unexpected,
            "wrong": story.wrong,
            "folder": str(folder),
            "report": str(report),
            "recovery_report": story.reports,
        },
        summary=["", *ending],
        notes=[
            f"the ledger is in {folder}, the story in {report}",
            *[f"the report of the recovery, to open: {file}" for file in story.reports if file.endswith(".html")],
        ],
    )


def fresh_folder(base: Path) -> Path:
    """Return a folder that is empty or not there yet: the base, or the first free one below it."""
    candidates = chain([base], (base / f"demo-{number}" for number in count(2)))
    return next(folder for folder in candidates if not folder.exists() or not any(folder.iterdir()))


def _ending(story: Demo) -> list[str]:
    lines = ["## What this proves", ""]
    if story.missed or story.unexpected or story.wrong:
        return [
            *lines,
            f"FAILED: {len(story.missed)} of {len(story.planted)} damages were missed, "
            f"{len(story.unexpected)} reports were of nothing, {len(story.wrong)} claims were false.",
            *[f"- missed: {each.check}, {each.subject}, {each.code}" for each in story.missed],
            *[f"- unexpected: {each.check}, {each.subject}, {each.code}" for each in story.unexpected],
            *[f"- false: {words}" for words in story.wrong],
        ]
    return [
        *lines,
        f"- {len(story.planted)} damages were planted: every one was found, and nothing else was reported.",
        "- Balances come from the events alone: the live rows were wrong and did not matter.",
        "- A damaged log never passes for a whole one: accounts it cannot vouch for are named, the others served.",
        "- The same events give the same digest, in a new ledger too: nobody has to be believed.",
        "- A recovery in place brought back, settled, corrected and unlocked all of it, and its report can be checked.",
    ]


def _print(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _silent(words: str) -> None:
    del words

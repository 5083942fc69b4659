"""The stage of the demo: the clock and the folder of every command, and what was planted, found and told so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from pathlib import Path

from console.answer import Answer
from console.damage import Damage
from console.run import Everywhere, Run
from schemas import format_time

__all__ = ["Say", "Stage"]

Say = Callable[[str], None]


@dataclass
class Stage:
    """The running story: the clock and folder of every command, and what was seen so far."""

    folder: Path
    now: datetime
    say: Say
    planted: list[Damage] = field(default_factory=list)
    found: list[Damage] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def run(self, folder: Path | None = None, *, output: Path | None = None) -> Run:
        """Return a run of a command in the folder of the story, or in another."""
        return Run(options=Everywhere(data=folder or self.folder, now=format_time(self.now), output=output))

    def tell(self, words: str = "") -> None:
        """Tell a line."""
        self.lines.append(words)
        self.say(words)

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self.tell()
        self.tell(f"## {title}")
        self.tell()

    @contextmanager
    def unsaid(self) -> Iterator[None]:
        """Leave away what a command says before it does it: the story has told that already."""
        with redirect_stderr(StringIO()):
            yield

    def command(self, words: str) -> None:
        """Tell which command comes next."""
        self.tell(f"    $ ledger-replay {words}")

    def plant(self, damages: Sequence[Damage]) -> None:
        """Take down what was damaged."""
        self.planted.extend(damages)

    def see(self, check: str, found: Sequence[Damage]) -> None:
        """Take down what a command found, and show it beside what was planted for it."""
        self.found.extend(found)
        by_key = {each.key: each for each in found}
        mine = [each for each in self.planted if each.check == check]
        for each in mine:
            hit = by_key.pop(each.key, None)
            mark = "found " if hit else "MISSED"
            said = f" -> {hit.code}: {hit.story}" if hit else ""
            self.tell(f"    {mark}  {each.subject}: {each.story}{said}")
        for each in by_key.values():
            self.tell(f"    NEVER PLANTED  {each.subject}: {each.code} {each.story}")

    def claim(self, is_so: bool, words: str) -> None:
        """Say something that must hold; where it does not, the demo fails."""
        if not is_so:
            self.wrong.append(words)
        self.tell(f"    {'true  ' if is_so else 'FALSE '}  {words}")

    def show(self, answer: Answer) -> None:
        """Tell what a command says before its rows."""
        for line in answer.summary:
            if line:
                self.tell(f"    {line}")

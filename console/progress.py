"""The progress bar: how much is done, how fast, and how long it still takes. Only ever drawn on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from replay.topic.partition import State

__all__ = ["bar", "partitions", "rounds"]


class _Speed(ProgressColumn):
    """Events done and events a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = f"{task.speed:,.0f} {self._unit}/s" if task.speed else ""
        return Text(f"{task.completed:,.0f} {self._unit} {speed}")


class _Whole(_Speed):
    """Events done and events a second, of the line that stands for all of them."""

    def __init__(self) -> None:
        super().__init__("events")

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields.get("is_whole") else Text("")


@contextmanager
def partitions(*, is_terminal: bool, say: Callable[[str], None]) -> Iterator[Callable[[dict[int, State]], None]]:
    """Yield a callback that draws how far all partitions and each of them are; `say` gets what they wait for.

    Speeds are of the whole. Where stderr is no terminal nothing is drawn.
    """
    if not is_terminal:

        def tell(states: dict[int, State]) -> None:
            for state in states.values():
                if state.note:
                    say(state.note)

        yield tell
        return
    # The bar is short, so that a line of a partition fits beside what it says; only the whole has a speed.
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), _Whole(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=10) as progress:
        whole = progress.add_task("replaying", total=None, is_whole=True)
        tasks: dict[int, TaskID] = {}
        begun: dict[int, int] = {}

        def show(states: dict[int, State]) -> None:
            for partition, state in states.items():
                if partition not in tasks:
                    tasks[partition] = progress.add_task("", total=state.until, completed=state.position)
                    begun[partition] = state.position
                note = f" {state.note}" if state.note else ""
                name = f"partition {partition} {state.position:,}/{state.until:,}{note}"
                progress.update(tasks[partition], completed=state.position, description=name)
            done = sum(state.position - begun[partition] for partition, state in states.items())
            left = sum(state.until - state.position for state in states.values())
            progress.update(whole, completed=done, total=done + left)

        yield show


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback (done, total or None) that moves a bar on stderr, which goes away at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Speed(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def rounds(doing: str) -> Iterator[tuple[Callable[[int, int | None], None], Callable[[str], None]]]:
    """Yield a callback as `bar` does, and one that says what a round came to: both in one line, until the end."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), _Speed("events"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=None)

        def say(words: str) -> None:
            progress.update(task, description=f"{doing}: {words}")

        yield lambda done, total: progress.update(task, completed=done, total=total), say

"""The progress bar: how much is done, how fast, and how long it still takes. Only ever drawn on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["bar"]


class _Speed(ProgressColumn):
    """Events done and events a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = f"{task.speed:,.0f} {self._unit}/s" if task.speed else ""
        return Text(f"{task.completed:,.0f} {self._unit} {speed}")


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback (done, total or None) that moves a bar on stderr, which goes away at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Speed(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

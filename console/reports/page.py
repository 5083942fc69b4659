"""A report as one HTML page that needs nothing else: no network, no script, no other file.

Its charts are drawn here, since the libraries that draw SVG put scripts or a background of their own into it, give it
no description, and shrink its text with it. Every value is escaped by the template, whoever chose it.
"""

from __future__ import annotations

from functools import cache

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from console.render import printable
from console.reports.drawing import drawn_bars, drawn_columns
from console.reports.model import Bars, Columns, Report
from schemas import format_time

__all__ = ["page"]


def page(report: Report) -> bytes:
    """Return the HTML page of a report."""
    return _template().render(report=report).encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("console.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What cannot be seen, or turns the direction of what stands beside it, is spelled out.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"columns": drawn_columns, "bars": drawn_bars, "moment": format_time, "rows": _rows}
    environment.tests |= {"columns": lambda chart: isinstance(chart, Columns), "bars": lambda c: isinstance(c, Bars)}
    return environment.get_template("report.html")


def _rows(table: pl.DataFrame) -> list[list[tuple[str, bool]]]:
    """Return the cells of a table, each with whether it is a number."""
    numeric = [dtype.is_numeric() for dtype in table.dtypes]
    return [
        [
            (f"{value:,}" if is_number and value is not None else printable(value), is_number)
            for value, is_number in zip(row, numeric, strict=True)
        ]
        for row in table.iter_rows()
    ]

"""Rows of the monitor as a table: names of columns, numbers as text, and what needs saying below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from snn_perception.runtime.monitoring import Row

if TYPE_CHECKING:
    from rich.console import Group

_STYLES = {"OK": "green", "WARN": "yellow", "ERROR": "bold red", "STALE": "magenta"}


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _tenths(value: float) -> str:
    return f"{value:.1f}"


# Heading, attribute of `Row`, and how a number is written.
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("node", "node", str),
    ("camera", "camera", str),
    ("state", "state", str),
    ("level", "level", str),
    ("packets/s", "packets_per_s", _count),
    ("events/s", "events_per_s", _count),
    ("windows/s", "windows_per_s", _tenths),
    ("found/s", "detections_per_s", _tenths),
    ("p50 ms", "latency_p50_ms", _tenths),
    ("p95 ms", "latency_p95_ms", _tenths),
    ("waiting", "waiting", _count),
    ("dropped", "dropped", _count),
    ("lost", "lost", _count),
    ("failed", "failed", _count),
    ("resets", "resets", _count),
    ("steps", "steps", _tenths),
    ("firing", "firing_rate", lambda value: f"{value:.1%}"),
)
_IF_KNOWN = ("steps", "firing_rate")  # columns that not every model has


def columns_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the headings for some rows."""
    return tuple(heading for heading, _, _ in _shown(rows))


def cells_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return each row as text under `columns_of`; ``-`` stands for what is not known."""
    return [tuple(_text(getattr(row, name), write) for _, name, write in _shown(rows)) for row in rows]


def remarks_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return (level, line) for each row whose message says more than that all is well."""
    return [
        (row.level, " ".join(filter(None, (row.level, f"{row.node} {row.camera}".rstrip() + ":", row.message))))
        for row in rows
        if row.level != "OK"
    ]


def drawn(rows: Sequence[Row]) -> Group:
    """Return the table and the remarks for a terminal."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)  # frames would take the width of two columns
    for heading, name, _ in _shown(rows):
        is_text = name in ("node", "camera", "state", "level")
        table.add_column(heading, overflow="fold", justify="left" if is_text else "right")
    at = columns_of(rows).index("level")
    for row, cells in zip(rows, cells_of(rows), strict=True):
        texts = [Text(cell) for cell in cells]
        texts[at].stylize(_STYLES.get(row.level, ""))
        table.add_row(*texts)
    return Group(table, *(Text(line, style=_STYLES.get(level, "")) for level, line in remarks_of(rows)))


def _shown(rows: Sequence[Row]) -> list[tuple[str, str, Callable[[Any], str]]]:
    def needed(name: str) -> bool:
        return name not in _IF_KNOWN or any(getattr(row, name) is not None for row in rows)

    return [column for column in _COLUMNS if needed(column[1])]


def _text(value: Any, write: Callable[[Any], str]) -> str:
    return "-" if value is None or value == "" else write(value)

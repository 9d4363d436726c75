"""What was looked for in a data set and what was found, for people."""

from __future__ import annotations

from dataclasses import dataclass

LINES = ("missing", "faulty", "left_out", "notes")  # of a report, entries of which there may be many
_SHOWN = 3  # examples in a report's table


@dataclass(frozen=True)
class DatasetReport:
    """What was looked for and what was found; each entry is a line for a person.

    Attributes:
        looked_in: the folder, and what was looked for there.
        found: recordings that can be used.
        missing: halves of recordings, and splits.
        faulty: files whose first bytes are wrong.
        left_out: recordings that options left out.
        notes: anything else.
    """

    looked_in: str
    found: int = 0
    missing: tuple[str, ...] = ()
    faulty: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the report as one line, with the first entries of each kind."""
        parts = [f"looked in {self.looked_in}"]
        for name in LINES:
            shown = ", ".join(_first(getattr(self, name)))
            parts += [f"{name.replace('_', ' ')}: {shown}"] if shown else []
        return "; ".join(parts)

    def table(self) -> str:
        """Return the report as text: one row for each kind, its count and the first entries."""
        rows = [f"{'looked in':<10} {self.looked_in}", f"{'found':<10} {self.found:>6}"]
        for name in LINES:
            entries = getattr(self, name)
            for i, line in enumerate(_first(entries)):
                kind, count = (name.replace("_", " "), len(entries)) if i == 0 else ("", "")
                rows.append(f"{kind:<10} {count:>6}  {line}")
        return "\n".join(rows)


def _first(entries: tuple[str, ...]) -> list[str]:
    more = [f"... and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [*entries[:_SHOWN], *more]

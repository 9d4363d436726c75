"""A measured sanity ladder as plain values, as rows for people, and as a Markdown section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snn_perception.evaluation.ladder import Ladder, Rung
from snn_perception.evaluation.markdown import figure

NOTICE = "AP on a synthetic set is never comparable with AP on real recordings."
_PARTS = ("moving", "silent")
_FEW_IMAGES = 100  # of which the limits cannot judge: a single car decides


def ladder_values(ladder: Ladder, folder: str, split: str, dataset: str | None) -> dict[str, Any]:
    """Return plain values for JSON.

    Args:
        folder, split: of the set. dataset: its generator and version; None for recorded data.
    """
    return {
        "dataset": dataset,
        "notice": NOTICE,
        "folder": folder,
        "split": split,
        "protocol": ladder.protocol.name,
        "hash": ladder.hash,
        "classes": list(ladder.classes),
        "recordings": ladder.recordings,
        "prior_recordings": ladder.prior_recordings,
        "images": ladder.images,
        "boxes": ladder.boxes,
        "silent_boxes": ladder.silent,
        "rungs": [_rung_values(rung) for rung in ladder.rungs],
    }


def _rung_values(rung: Rung) -> dict[str, Any]:
    scores = rung.scores.as_dict()
    return {
        "name": rung.name,
        "limit": str(rung.bounds),
        "verdict": rung.verdict,
        **{stat: scores["stats"][stat] for stat in ("AP", "AP50", "AP75", "AR_100")},
        "per_class": scores["per_class"],
        **{name: scores[name] for name in _PARTS},
        "detections": scores["detections"],
    }


def columns_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the columns; figures are AP over IoU 0.50:0.95 and AP50."""
    return "rung (AP / AP50)", "all", *_PARTS, *values["classes"], "limit of AP", "verdict"


def rows_of(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each rung, from what `ladder_values` gave."""
    return [
        (
            rung["name"],
            _pair(rung),
            *(_pair(rung[name] or {}) for name in _PARTS),
            *(_pair(rung["per_class"][name]) if name in rung["per_class"] else "-" for name in values["classes"]),
            rung["limit"] or "-",
            rung["verdict"] or "-",
        )
        for rung in values["rungs"]
    ]


def _pair(stats: Mapping[str, float]) -> str:
    return f"{figure(stats.get('AP'))} / {figure(stats.get('AP50'))}"


def summary_of(values: Mapping[str, Any]) -> str:
    """Return what was measured, in one line."""
    few = "; too few label times for the verdicts to mean much" if values["images"] < _FEW_IMAGES else ""
    return (
        f"{values['dataset'] or 'recorded data'}, split {values['split']}: {values['recordings']} recordings, "
        f"{values['images']:,} label times, {values['boxes']:,} boxes ({values['silent_boxes']:,} of them silent); "
        f"protocol {values['protocol']}, hash {values['hash']}{few}"
    )


def ladder_markdown(values: Mapping[str, Any]) -> str:
    """Return the ladder as a Markdown section, from what `ladder_values` gave."""
    columns = columns_of(values)
    rows = [columns, ("---",) * len(columns), *rows_of(values)]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    notice = [f"{values['notice']}", ""] if values["dataset"] else []
    return "\n".join(["## Sanity ladder", "", f"{summary_of(values)}.", "", *notice, *table, ""])

"""An evaluation as files: ``metrics.json`` for programs, ``report.md`` with pictures for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.card import ProtocolCard, make_card
from snn_perception.evaluation.cost_figures import CostFigures
from snn_perception.evaluation.latency import Latency
from snn_perception.evaluation.markdown import report_markdown
from snn_perception.evaluation.run import Evaluation
from snn_perception.whole_file import cannot_write, whole_file

METRICS_FORMAT = 1
METRICS, REPORT, PICTURES = "metrics.json", "report.md", "pictures"
SYNTHETIC_NOTICE = "Generated data: figures on it are never comparable with figures on GEN1 or other recorded data."


@dataclass(frozen=True)
class ModelFacts:
    """What a report says of the model; everything but the name is None where only its detections are known.

    Attributes:
        note: what a person must know first, such as that it is not trained.
        digest: over description and weights. spec_hash: of the description.
        run: the record of how its weights came about.
    """

    name: str
    note: str = ""
    digest: str | None = None
    spec_hash: str | None = None
    window_us: int | None = None
    state_policy: str | None = None
    parameters: int | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that an evaluation found.

    Attributes:
        command: what was typed, for people who want the same.
        dataset, split, path: as the data was opened. provenance: of generated data; None for recorded data.
        settings: options that a figure depends on.
    """

    evaluation: Evaluation
    model: ModelFacts
    dataset: str
    split: str
    path: str
    provenance: str | None = None
    cost: CostFigures | None = None
    latency: Latency | None = None
    settings: Mapping[str, Any] | None = None
    command: Sequence[str] = ()

    @property
    def card(self) -> ProtocolCard:
        """The conditions under which the scores hold."""
        evaluation = self.evaluation
        return make_card(
            [outcome.result(evaluation.protocol) for outcome in evaluation.outcomes],
            evaluation.classes,
            evaluation.size,
            evaluation.protocol,
            dataset=self.dataset,
            split=self.split,
            provenance=self.provenance,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: what ``metrics.json`` holds and ``--json`` prints."""
        evaluation, outcomes = self.evaluation, self.evaluation.outcomes
        cost = self.cost.as_dict() if self.cost else {"firing": None, "operations": None, "energy": None}
        return {
            "format": METRICS_FORMAT,
            "synthetic": self.provenance,
            "notice": SYNTHETIC_NOTICE if self.provenance else None,
            "model": vars(self.model) | {"classes": list(self.model.classes) if self.model.classes else None},
            "data": {
                "name": self.dataset,
                "split": self.split,
                "path": self.path,
                "provenance": self.provenance,
                "recordings": len(outcomes),
                "windows": sum(outcome.windows for outcome in outcomes),
                "labelled_windows": sum(outcome.labelled_windows for outcome in outcomes),
                "events": sum(outcome.events for outcome in outcomes),
                "seconds": sum(outcome.duration_us for outcome in outcomes) / 1e6,
                "resets": sum(outcome.resets for outcome in outcomes),
            },
            "card": self.card.as_dict(),
            "scores": evaluation.scores.as_dict(),
            "operating_point": evaluation.operating_point.as_dict(),
            **cost,
            "latency": self.latency.as_dict() if self.latency else None,
            "settings": dict(self.settings or {}),
            "notes": list(evaluation.notes),
        }


def write_report(findings: Findings, folder: Path, pictures: Mapping[str, Path]) -> dict[str, Any]:
    """Write ``metrics.json`` and ``report.md`` into a folder, and return what the former holds.

    Args:
        pictures: what they show -> files inside the folder (see `write_pictures`).

    Raises:
        SnnPerceptionError: if a file cannot be written.
    """
    values = findings.as_dict()
    links = {name: path.relative_to(folder).as_posix() for name, path in pictures.items()}
    _write_text(folder / METRICS, json.dumps(values, indent=1, allow_nan=False) + "\n")
    _write_text(folder / REPORT, report_markdown(values, findings.card.markdown(), links, findings.command))
    return values


def write_pictures(findings: Findings, folder: Path) -> dict[str, Path]:
    """Return the plots that were written below a folder, by what they show."""
    from snn_perception.evaluation.plots import plot_confusion, plot_curves, plot_firing

    scores, place = findings.evaluation.scores, folder / PICTURES
    make_folder(place)
    pictures = {"curves": place / "precision_recall.png", "confusion": place / "confusion.png"}
    plot_curves(pictures["curves"], scores, findings.evaluation.operating_point)
    plot_confusion(pictures["confusion"], scores)
    if findings.cost:
        pictures["firing"] = place / "firing.png"
        plot_firing(pictures["firing"], findings.cost.firing)
    return pictures


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        SnnPerceptionError: if that is impossible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnnPerceptionError(f"{folder}: cannot be made: {error.strerror or error}; name another folder") from error


def _write_text(path: Path, text: str) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Return what a ``metrics.json`` holds.

    Raises:
        SnnPerceptionError: if it is missing, no such file, or of another version.
    """
    path = Path(path)
    path = path / METRICS if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SnnPerceptionError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SnnPerceptionError(f"{path}: expected the metrics.json of 'evaluate -o', got no JSON ({error})") from None
    if not isinstance(values, dict) or values.get("format") != METRICS_FORMAT or "scores" not in values:
        got = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise SnnPerceptionError(
            f"{path}: expected metrics of 'evaluate' in format {METRICS_FORMAT}, got {got!r}; evaluate again"
        )
    return values

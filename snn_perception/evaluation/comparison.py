"""Two evaluations side by side: whether their figures may be compared, and by how much they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.card import ProtocolCard
from snn_perception.evaluation.report import read_metrics
from snn_perception.evaluation.results import STATS


@dataclass(frozen=True)
class Comparison:
    """Two sets of metrics.

    Attributes:
        names: of the models. hashes: of the protocol cards.
        differences: in words, what makes the figures incomparable; nothing if they may be compared.
        figures: name -> the value of each, None where it has none.
    """

    names: tuple[str, str]
    hashes: tuple[str, str]
    differences: tuple[str, ...]
    figures: Mapping[str, tuple[float | None, float | None]]

    @property
    def is_comparable(self) -> bool:
        """Whether both figures were measured alike."""
        return not self.differences

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "models": list(self.names),
            "comparable": self.is_comparable,
            "hashes": list(self.hashes),
            "differences": list(self.differences),
            "figures": {
                name: {"a": a, "b": b, "difference": None if a is None or b is None else b - a}
                for name, (a, b) in self.figures.items()
            },
        }


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Return two ``metrics.json`` files (or the folders that hold them) compared; differences are b minus a.

    Raises:
        SnnPerceptionError: if a file cannot be read, is no such file, or was changed by hand.
    """
    first, second = read_metrics(a), read_metrics(b)
    try:
        cards = tuple(ProtocolCard.from_dict(values["card"], str(path)) for values, path in ((first, a), (second, b)))
        figures = {name: (_figures(first).get(name), _figures(second).get(name)) for name in _names(first, second)}
        return Comparison(
            (first["model"]["name"], second["model"]["name"]),
            (cards[0].hash, cards[1].hash),
            cards[0].differences(cards[1]),
            figures,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise SnnPerceptionError(f"{a}, {b}: not metrics of 'evaluate' ({error}); evaluate again") from None


def _names(*all_values: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for values in all_values for name in _figures(values)))


def _figures(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are worth a line; those without ground truth are left out."""
    scores = values["scores"]
    found = {name: scores["stats"][name] for name in STATS}
    for name, one in scores["per_class"].items():
        found |= {f"{name} {stat}": one[stat] for stat in ("AP", "AP50")}
    for part in ("moving", "silent"):
        if scores[part] is not None:
            found |= {f"{part} {stat}": scores[part][stat] for stat in ("AP", "AP50", "AR_100")}
    found = {name: value for name, value in found.items() if value >= 0}
    if values["firing"] is not None:
        found["sparsity"] = values["firing"]["sparsity"]
        found["effective ACs"] = values["operations"]["effective_acs"]
    return found

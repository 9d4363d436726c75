"""The conditions under which a figure holds, and whether two figures may be compared."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from typing import Any

import numpy as np

from snn_perception.data.label_health import check_labels
from snn_perception.errors import SnnPerceptionError
from snn_perception.evaluation.grouping import ignored_boxes
from snn_perception.evaluation.protocol import Protocol, digest
from snn_perception.evaluation.results import RecordingResult
from snn_perception.types import SensorSize

CARD_FORMAT = 1
_VERSIONED = ("snn_perception", "numpy", "pycocotools", "torch")
_WORDS = {
    "skip_us": "skipped start in us",
    "min_diagonal_px": "smallest diagonal in px",
    "min_side_px": "smallest side in px",
    "max_detections": "most detections of an image and class",
    "matching": "how labels and detections meet",
    "tolerance_us": "time tolerance in us",
    "window_us": "window in us",
    "frames": "which frames are scored",
    "clips_boxes": "boxes cut to the image",
    "trapezoid": "AP of the YOLO family's validators",
    "data": "data set",
    "split": "split",
    "recordings": "recordings",
    "recordings_digest": "names of the recordings (digest)",
    "labels_digest": "labels (digest)",
    "classes": "classes",
    "size": "image size",
}


@dataclass(frozen=True)
class ProtocolCard:
    """What was evaluated and how.

    Attributes:
        protocol: how detections were scored.
        dataset: name of the data set. provenance: of generated data, its generator and version; None for real data.
        split: of the data set.
        recordings: how many. recordings_digest: over their names. labels_digest: over all their labels.
        classes: names. size: of the image that boxes are in, as ``WxH``.
        health: counts of what the labels hold and what is odd about them, over all recordings.
        ignored: why labels were not to be found -> how many. Each is counted once, under the first reason.
        versions: of the software; no figure's meaning depends on them.
    """

    protocol: Protocol
    dataset: str
    provenance: str | None
    split: str
    recordings: int
    recordings_digest: str
    labels_digest: str
    classes: tuple[str, ...]
    size: str
    health: Mapping[str, Any]
    ignored: Mapping[str, int]
    versions: Mapping[str, str]

    @property
    def meaning(self) -> dict[str, Any]:
        """Everything that changes what a figure means, as plain values."""
        return {
            **self.protocol.figures,
            "data": self.provenance or self.dataset,
            "split": self.split,
            "recordings": self.recordings,
            "recordings_digest": self.recordings_digest,
            "labels_digest": self.labels_digest,
            "classes": list(self.classes),
            "size": self.size,
        }

    @property
    def hash(self) -> str:
        """16 hex digits; figures are comparable only where they are equal."""
        return digest(self.meaning)

    def differences(self, other: ProtocolCard) -> tuple[str, ...]:
        """Return in words what makes figures of the two cards incomparable; nothing if they are comparable."""
        ours, theirs = self.meaning, other.meaning
        return tuple(
            f"{words}: {_text(ours.get(key))} against {_text(theirs.get(key))}"
            for key, words in _WORDS.items()
            if ours.get(key) != theirs.get(key)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the hash."""
        return {"format": CARD_FORMAT, "hash": self.hash, **asdict(self), "classes": list(self.classes)}

    @staticmethod
    def from_dict(values: Mapping[str, Any], source: str = "protocol card") -> ProtocolCard:
        """Return the card that `as_dict` made.

        Args:
            source: names the file in errors.

        Raises:
            SnnPerceptionError: if it is no card, of another format, or its values do not give its hash.
        """
        if not isinstance(values, Mapping) or values.get("format") != CARD_FORMAT:
            got = values.get("format") if isinstance(values, Mapping) else type(values).__name__
            raise SnnPerceptionError(
                f"{source}: expected a protocol card of format {CARD_FORMAT}, got {got!r}; evaluate again to make one"
            )
        names = {field.name for field in fields(ProtocolCard)}
        missing = names - set(values)
        if missing:
            raise SnnPerceptionError(f"{source}: the protocol card lacks {', '.join(sorted(missing))}; evaluate again")
        kept = {name: values[name] for name in names}
        try:
            kept["protocol"] = Protocol(**kept["protocol"])
            card = ProtocolCard(**{**kept, "classes": tuple(kept["classes"])})
            fits = card.hash == values.get("hash")
        except (TypeError, AttributeError, ValueError) as error:
            raise SnnPerceptionError(f"{source}: the protocol card is damaged ({error}); evaluate again") from None
        if not fits:
            raise SnnPerceptionError(
                f"{source}: the protocol card states the hash {values.get('hash')!r}, its values give {card.hash}; "
                "it was changed by hand: evaluate again"
            )
        return card

    def markdown(self) -> str:
        """Return the card as a Markdown section with tables."""
        data = f"{self.dataset} ({self.provenance})" if self.provenance else self.dataset
        rows = {
            "protocol": f"{self.protocol.name}: {self.protocol.source}" if self.protocol.source else self.protocol.name,
            "comparable with figures of hash": f"`{self.hash}`",
            "data set": data,
            "split": self.split,
            "recordings": f"{self.recordings} (names `{self.recordings_digest}`, labels `{self.labels_digest}`)",
            "classes": ", ".join(self.classes),
            "image size": self.size,
            **{_WORDS[key]: _text(value) for key, value in self.protocol.figures.items()},
        }
        generated = (
            ["", f"Generated data ({self.provenance}): never comparable with figures on recorded data."]
            if self.provenance
            else []
        )
        per_class = {f"of class {name}": count for name, count in self.health.get("per_class", {}).items()}
        counts = {name: count for name, count in self.health.items() if isinstance(count, int)}
        return "\n".join(
            [
                "## Protocol card",
                *generated,
                "",
                *_table(("condition", "value"), rows),
                "",
                "Labels before the filter, and what is odd about them:",
                "",
                *_table(("labels", "count"), {**counts, **per_class}),
                "",
                "Labels that were not to be found:",
                "",
                *_table(("reason", "boxes"), self.ignored),
                "",
                "Software: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()) + ".",
                "",
            ]
        )


def make_card(
    results: Sequence[RecordingResult],
    classes: Sequence[str],
    size: SensorSize,
    protocol: Protocol,
    *,
    dataset: str,
    split: str,
    provenance: str | None = None,
) -> ProtocolCard:
    """Return the card of an evaluation of these recordings.

    Args:
        dataset, split: as the data set is opened.
        provenance: generator and version of synthetic data; None for recordings of a camera.
    """
    return ProtocolCard(
        protocol=protocol,
        dataset=dataset,
        provenance=provenance,
        split=split,
        recordings=len(results),
        recordings_digest=_digest_names(results),
        labels_digest=_digest_labels(results),
        classes=tuple(classes),
        size=str(size),
        health=_health(results, classes, size),
        ignored=ignored_boxes(results, len(classes), size, protocol),
        versions=software_versions(),
    )


def software_versions() -> dict[str, str]:
    """Return the versions of what takes part in a figure."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _digest_names(results: Sequence[RecordingResult]) -> str:
    names = "\n".join(sorted(result.name for result in results))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _digest_labels(results: Sequence[RecordingResult]) -> str:
    """Return a digest over times, boxes and classes of all labels; recordings in the order of their names."""
    whole = hashlib.sha256()
    for result in sorted(results, key=lambda result: result.name):
        whole.update(f"{result.name}\n{len(result.truth)}\n".encode())
        for column, dtype in ((result.truth.t_us, "<i8"), (result.truth.xywh, "<f4"), (result.truth.class_id, "<i8")):
            whole.update(np.ascontiguousarray(column, dtype).tobytes())
    return whole.hexdigest()[:16]


def _health(results: Sequence[RecordingResult], classes: Sequence[str], size: SensorSize) -> dict[str, Any]:
    """Return the counts of `check_labels` summed over the recordings, of rows, classes and faults."""
    total: dict[str, Any] = {"per_class": dict.fromkeys(classes, 0)}
    for result in results:
        health = check_labels(result.truth, size, classes).as_dict()
        for name, count in health["per_class"].items():
            total["per_class"][name] += count
        for name, count in health.items():
            if isinstance(count, int):
                total[name] = total.get(name, 0) + count
    return total


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]

"""A detector small enough to test the core with: two spiking stages, and a head of one box per cell.

It stands in for any family, so that the core is tested without one; it also has its own weights files and its own event
encoding. Nothing of it is meant to detect anything.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_perception.api import (
    CheckpointError,
    Component,
    ComponentRef,
    DecodedEvents,
    Detections,
    EventDataError,
    FeatureInfo,
    ImportReport,
    ModelSpec,
    Packet,
    SensorSize,
    State,
    fold_time,
    hookimpl,
    parts_of,
)
from snn_perception.types import JITTER_US, LEAP_US, Losses

CLASSES = ("square", "circle")
PREFIX = "tiny."


@hookimpl
def snn_backbones():
    return [Component("tiny", TinyBackbone, "two spiking convolutions, strides 4 and 8")]


@hookimpl
def snn_heads():
    return [Component("tiny", TinyHead, "one box per cell, of the cell's own size and place")]


@hookimpl
def snn_presets():
    return [Component("tiny", tiny, "for tests of the core")]


@hookimpl
def snn_checkpoint_importers():
    return [
        Component("tiny_names", lambda: import_tiny, "weights whose names begin with 'tiny.'"),
        Component("tiny_twice", lambda: import_twice, "the same, where the names end in '.both' too"),
    ]


def tiny(
    *, state_policy: str = "carry", window_us: int = 10_000, height: int = 48, width: int = 64, channels: int = 6
) -> ModelSpec:
    return ModelSpec(
        representation=ComponentRef("voxel_cube", {"tbin": 2}),
        neuron=ComponentRef("lif", {"v_threshold": 0.5}),
        backbone=ComponentRef("tiny", {"channels": channels}),
        head=ComponentRef("tiny"),
        classes=CLASSES,
        window_us=window_us,
        sensor_size=SensorSize(height, width),
        state_policy=state_policy,  # type: ignore[arg-type]
    )


@hookimpl
def snn_event_decoders():
    return [Component("tiny", TinyDecoder, "one record of 16 bytes per event or time word")]


RECORD = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("kind", "u1"), ("spare", "V3")])
OFF, ON, TIME_WORD, BROKEN = range(4)


class TinyDecoder:
    """Records of `RECORD`; after a loss the first one is dropped, as a decoder that waits for its bearings does.

    A record of the kind BROKEN makes the whole packet unreadable.
    """

    def __init__(self) -> None:
        self.is_synced, self.now_us = True, None

    def resync(self) -> None:
        self.is_synced = False

    def decode(self, packet: Packet) -> DecodedEvents:
        if packet.size is None:
            raise EventDataError("tiny: the packet has no sensor size")
        ragged = len(packet.data) % RECORD.itemsize
        records = np.frombuffer(packet.data[: len(packet.data) - ragged].tobytes(), RECORD)
        if (records["kind"] == BROKEN).any():
            raise EventDataError("tiny: an impossible record")
        unsynced = 0 if self.is_synced else min(1, len(records))
        records, self.is_synced = records[unsynced:], True
        known = records["t"].astype(np.int64)
        before = known[:1] if self.now_us is None else np.array([self.now_us])
        steps = np.diff(known, prepend=before)
        events = records[records["kind"] != TIME_WORD]
        at = np.flatnonzero((steps > LEAP_US) | (steps < -JITTER_US))
        index = (records["kind"] != TIME_WORD).cumsum() - (records["kind"] != TIME_WORD)
        self.now_us = int(known[-1]) if len(known) else self.now_us
        return DecodedEvents(
            events["x"].astype(np.uint16),
            events["y"].astype(np.uint16),
            events["kind"].astype(np.uint8),
            events["t"].astype(np.int64),
            packet.size,
            t_reached=int(known[-1]) if len(known) else None,
            leaps=np.stack([index[at], known[at] - steps[at], known[at]], axis=1).astype(np.int64),
            losses=Losses(unsynced=unsynced, ragged=ragged),
        )


class TinyBackbone(nn.Module):
    """Maps at strides 4 and 8. The weights are all positive and large, so that it fires wherever events are."""

    def __init__(self, in_channels: int, neuron: Any, *, channels: int = 6) -> None:
        super().__init__()
        self.features = FeatureInfo((channels, channels), (4, 8))
        self.convs = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 4, 4, bias=False), nn.Conv2d(channels, channels, 2, 2, bias=False)]
        )
        self.neurons = nn.ModuleList([neuron(), neuron()])
        for conv in self.convs:
            nn.init.uniform_(conv.weight, 0.0, 0.5)

    def forward(self, x: Tensor, state: State) -> tuple[list[Tensor], State]:
        maps, after = [], []
        for conv, neuron, part in zip(self.convs, self.neurons, parts_of(state, 2), strict=True):
            x, part = neuron(fold_time(conv, x), part)
            maps.append(x)
            after.append(part)
        return maps, tuple(after)


class TinyHead(nn.Module):
    """Class scores from the mean over the steps; no state."""

    def __init__(self, features: FeatureInfo, num_classes: int, neuron: Any, *, threshold: float = 0.3) -> None:
        super().__init__()
        self.strides, self.threshold = features.strides, threshold
        self.convs = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in features.channels)
        for conv in self.convs:
            nn.init.normal_(conv.weight)

    def forward(self, maps: list[Tensor], state: State) -> tuple[list[Tensor], State]:
        return [fold_time(conv, x).mean(dim=0) for conv, x in zip(self.convs, maps, strict=True)], None

    def loss(self, raw: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
        return {"scores": sum((scores.sigmoid().mean() for scores in raw), torch.zeros(()))}

    def decode(self, raw: list[Tensor], size: SensorSize) -> list[Detections]:
        return [self._row([scores[row] for scores in raw]) for row in range(len(raw[0]))]

    def _row(self, raw: list[Tensor]) -> Detections:
        boxes, scores, ids = [], [], []
        for stride, values in zip(self.strides, raw, strict=True):
            ids_at, y, x = (values.sigmoid() >= self.threshold).nonzero(as_tuple=True)
            boxes.append(torch.stack([x, y, x + 1, y + 1], dim=1) * float(stride))
            scores.append(values.sigmoid()[ids_at, y, x])
            ids.append(ids_at)
        order = torch.cat(scores).argsort(descending=True, stable=True)
        columns = (torch.cat(boxes)[order], torch.cat(scores)[order], torch.cat(ids)[order])
        xyxy, score, class_id = (column.numpy(force=True) for column in columns)
        return Detections(xyxy.astype(np.float32), score.astype(np.float32), class_id.astype(np.int64))


def import_tiny(tensors: Mapping[str, Tensor], hints: Mapping[str, Any]):
    """Read ``tiny.<our name>``; the number of channels comes from the shapes."""
    if not any(name.startswith(PREFIX) for name in tensors):
        return None
    weights = {name.removeprefix(PREFIX).removesuffix(".both"): tensor for name, tensor in tensors.items()}
    first = weights.get("backbone.convs.0.weight")
    if first is None:
        raise CheckpointError("importer 'tiny_names': missing 'tiny.backbone.convs.0.weight'")
    report = ImportReport(
        "tiny_names",
        matched=len(weights),
        defaults={"window_us": "10000 (tests)"},
        notes=(f"epoch {hints.get('epoch')}",),
    )
    return tiny(channels=first.shape[0]), weights, report


def import_twice(tensors: Mapping[str, Tensor], hints: Mapping[str, Any]):
    return import_tiny(tensors, hints) if any(name.endswith(".both") for name in tensors) else None

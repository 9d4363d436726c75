"""A plugin with something for every hook, as small as each contract allows."""

from pathlib import Path

import numpy as np
import torch

from snn_perception.api import (
    API_VERSION,
    Component,
    ComponentRef,
    Dataset,
    DatasetReport,
    DecodedEvents,
    Detections,
    EventWindow,
    FeatureInfo,
    ImportReport,
    LabelledRecording,
    ModelSpec,
    Packet,
    Recording,
    SensorSize,
    Spike,
    checked_root,
    choose_recordings,
    fold_time,
    header_fault,
    hookimpl,
    list_files,
    membrane,
)

SNN_PERCEPTION_API = API_VERSION


@hookimpl
def snn_neurons():
    return [Component("good_if", Integrator, "integrate-and-fire", version=3)]


@hookimpl
def snn_backbones():
    return [Component("good_pool", Pooling, "mean over squares, then a neuron")]


@hookimpl
def snn_heads():
    return [Component("good_mean", MeanHead, "one box over the whole image, as sure as the mean")]


@hookimpl
def snn_representations():
    return [Component("good_count", Counts, "events per pixel")]


@hookimpl
def snn_presets():
    return [Component("good_model", good_model, "all of this plugin together")]


@hookimpl
def snn_checkpoint_importers():
    return [Component("good_weights", lambda: import_weights, "tensors whose names start with 'good.'")]


@hookimpl
def snn_event_readers():
    return [Component("good_file", TextRecording, "one event a line: t x y p")]


@hookimpl
def snn_event_decoders():
    return [Component("good_words", WordDecoder, "one byte a event: its column")]


@hookimpl
def snn_datasets():
    return [Component("good_set", recordings, "every file in a folder")]


class Integrator(torch.nn.Module):
    def __init__(self, *, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.spike, self.v_threshold = Spike(torch.sigmoid), v_threshold

    def forward(self, current, state):
        v, spikes = membrane(state, current), []
        for x in current.to(v.dtype):
            v = v + x
            spikes.append(self.spike(v, self.v_threshold))
            v = v - spikes[-1] * self.v_threshold
        return torch.stack(spikes).to(current.dtype), v


class Pooling(torch.nn.Module):
    def __init__(self, in_channels, neuron, *, side: int = 4) -> None:
        super().__init__()
        self.pool, self.neuron = torch.nn.AvgPool2d(side), neuron()
        self.features = FeatureInfo((in_channels,), (side,))

    def forward(self, x, state):
        spikes, state = self.neuron(fold_time(self.pool, x), state)
        return [spikes], state


class MeanHead(torch.nn.Module):
    def __init__(self, features, num_classes, neuron) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(num_classes))

    def forward(self, maps, state):
        return maps[0].mean(dim=(0, 2, 3, 4))[:, None] * self.gain, state

    def loss(self, raw, targets, size):
        wanted = torch.tensor([0.0 if target is None else float(len(target) > 0) for target in targets])
        return {"mean": ((raw.amax(dim=1) - wanted) ** 2).mean()}

    def decode(self, raw, size):
        box = np.array([[0, 0, size.width, size.height]], np.float32)
        best = raw.detach().clamp(0, 1).max(dim=1)
        return [
            Detections(box, np.array([score], np.float32), np.array([class_id]))
            for score, class_id in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


class Counts:
    channels, steps = 1, 1

    def __init__(self, size: SensorSize, *, limit: int = 255) -> None:
        self.size, self.limit = size, limit

    def __call__(self, window: EventWindow) -> torch.Tensor:
        grid = np.zeros((1, 1, self.size.height, self.size.width), np.float32)
        np.add.at(grid[0, 0], (window.events.y, window.events.x), 1)
        return torch.from_numpy(grid.clip(max=self.limit))


def good_model(*, classes: int = 2) -> ModelSpec:
    return ModelSpec(
        representation=ComponentRef("good_count"),
        neuron=ComponentRef("good_if"),
        backbone=ComponentRef("good_pool", {"side": 8}),
        head=ComponentRef("good_mean"),
        classes=tuple(f"class{i}" for i in range(classes)),
        window_us=10_000,
        sensor_size=SensorSize(16, 24),
    )


def import_weights(tensors, hints):
    if not all(name.startswith("good.") for name in tensors):
        return None
    weights = {name.removeprefix("good."): tensor for name, tensor in tensors.items()}
    return good_model(**hints), weights, ImportReport("good_weights", matched=len(weights))


class TextRecording(Recording):
    format, encoding = "good_file", "text"

    def __init__(self, path: Path, *, width: int = 64) -> None:
        self.path, self.size = path, SensorSize(width, width)

    @staticmethod
    def claims(path):
        return path.suffix == ".good"

    def chunks(self, max_events=1 << 16, *, start_us=None, align_us=None):
        t, x, y, p = np.loadtxt(self.path, dtype=np.int64, ndmin=2).T
        yield DecodedEvents(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, self.size)


class WordDecoder:
    def __init__(self) -> None:
        self.last = 0

    def decode(self, packet: Packet) -> DecodedEvents:
        x = packet.data.astype(np.uint16)
        t = packet.time_base + np.arange(len(x))
        return DecodedEvents(x, np.zeros_like(x), np.ones(len(x), np.uint8), t, packet.size)

    def resync(self) -> None:
        self.last = 0


def recordings(root, split, *, suffix: str = ".good", limit: int | None = None, skip_faulty: bool = True):
    folder = checked_root(root) / split
    found = [LabelledRecording(path.name, path) for path in list_files(folder) if path.suffix == suffix]
    chosen = choose_recordings(found, faults, limit=limit, skip_faulty=skip_faulty)
    report = DatasetReport(f"{folder} for *{suffix}", len(chosen.recordings), faulty=chosen.faulty)
    return Dataset("good_set", split, ("thing",), None, chosen.recordings, report)


def faults(recording):
    fault = header_fault(recording.path)
    return (fault,) if fault else ()

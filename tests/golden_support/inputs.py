"""What goes into the networks: events as tensors, and boxes placed with them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from snn_perception.data.placing import centre_boxes, draw_placing, place_boxes, place_centre_boxes, place_image
from snn_perception.events.letterbox import fit_into
from snn_perception.registry import Registry
from snn_perception.types import EventArray, EventWindow, SensorSize
from tests.golden_support.vectors import Vector

EVERY = 97  # large arrays are stored one element in so many


def check_event_representation(vector: Vector, registry: Registry) -> None:
    options = vector.json["options"]
    steps, network = options["Tm"], SensorSize(*options["network_hw"])
    for name, size, interpolation in (
        ("gen1", SensorSize(*options["gen1_sensor_hw"]), "bilinear"),
        ("ncaltech", SensorSize(*options["ncaltech_sensor_hw"]), "bicubic"),
    ):
        events = _events(vector, f"{name}/events_", size)
        window = EventWindow(events, int(events.t[0]), int(events.t[-1]) + 1)
        cut = {"steps": steps, "macro_slice": name == "ncaltech"}
        micro = registry.build("representation", "micro_bins", size, network_size=None, **cut)
        counts = micro(window, torch.float64)
        vector.compare(f"{name}/micro_sum", counts.to(torch.uint8))
        whole = [network.height, network.width]
        boxed = registry.build(
            "representation", "micro_bins", size, network_size=whole, interpolation=interpolation, **cut
        )
        letterboxed = boxed(window, torch.float64)
        _compare_large(vector, f"{name}/letterboxed", letterboxed)
        vector.compare(f"{name}/letterboxed_crop", letterboxed[:, :, 240:272, 300:340])
        if name == "gen1":
            _check_gen1(vector, registry, window, counts, boxed, steps)
        else:
            edges = boxed.bins_of(window).edges
            assert edges[0] == events.t[0] and edges[-1] <= events.t[-1]
            vector.compare("ncaltech/macro_slice_events", np.array(np.count_nonzero(events.t < events.t[-1])))
            placed, _ = place_boxes(vector.input("gen1/boxes_in")[:1, :4], boxed.letterbox)  # the same box, of class 3
            vector.compare("ncaltech/letterboxed_box", np.append(placed, [[3.0]], axis=1))
    histograms = vector.input("rvt/histogram")
    small = SensorSize(*histograms.shape[-2:])
    summed = registry.build("representation", "micro_bins", small, steps=len(histograms), network_size=None)
    vector.compare("rvt/event_sum", summed.of_histograms(histograms).to(torch.uint8))


def _check_gen1(
    vector: Vector, registry: Registry, window: EventWindow, counts: torch.Tensor, boxed: Any, steps: int
) -> None:
    size = window.events.size
    edges = boxed.bins(int(window.events.t[0]), int(window.events.t[-1])).edges
    vector.compare("gen1/stride", np.array(edges[1] - edges[0]))
    vector.compare("gen1/micro_lengths", counts.sum(dim=(1, 2, 3)).to(torch.int64))
    placing = boxed.letterbox
    vector.compare("gen1/letterboxed_rows_cols", np.array([placing.scaled.height, placing.scaled.width]))
    boxes = vector.input("gen1/boxes_in")
    vector.compare("gen1/letterboxed_boxes_sorted", _placed(boxes, placing))
    drawn, flipped = draw_placing(np.random.RandomState(5).rand, size, placing.target)
    _compare_large(vector, "gen1/augmented_npseed5", place_image(counts, drawn, flipped=flipped))
    vector.compare("gen1/augmented_npseed5_boxes_sorted", _placed(boxes, drawn, flipped=flipped))
    _compare_large(vector, "gen1/sum", registry.build("representation", "event_count", size)(window, torch.float64)[0])
    grid = registry.build("representation", "voxel_grid", size, bins=steps, as_steps=True)
    _compare_large(vector, "gen1/voxel_grid", grid(window, torch.float64))
    sliced = EventWindow(window.events, int(edges[0]), int(edges[-1]))  # the bins' own edges, the last event left out
    surface = registry.build("representation", "time_surface", size, steps=steps, tau_us=50_000, memory_start_us=0)
    _compare_large(vector, "gen1/timesurface", surface(sliced, torch.float64))
    cube = registry.build("representation", "voxel_cube", size, tbin=2, layout="collided", presence=False)
    slices = [EventWindow(window.events, int(a), int(b)) for a, b in pairwise(edges)]
    _compare_large(vector, "gen1/voxel_cube", torch.cat([cube(one, torch.float64) for one in slices]))
    for name, kept in (("single_event", 1), ("no_event", 0)):
        few = EventWindow(window.events[:kept], window.t_start_us, window.t_end_us)
        vector.compare(f"gen1/{name}_sum", boxed(few, torch.float64).sum())


def _placed(boxes: np.ndarray, placing: Any, *, flipped: bool = False) -> np.ndarray:
    """Return the boxes (x1, y1, x2, y2, class) in the input, from left to right."""
    xyxy, kept = place_boxes(boxes[:, :4], placing, flipped=flipped)
    rows = np.concatenate([xyxy, boxes[:, 4:]], axis=1)[kept].astype(np.float32)
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _compare_large(vector: Vector, name: str, tensor: torch.Tensor) -> None:
    vector.compare(f"{name}/shape", np.array(tensor.shape))
    vector.compare(f"{name}/every{EVERY}", tensor.reshape(-1)[::EVERY])
    values = tensor.numpy()
    vector.compare(f"{name}/stats", np.array([values.sum(), values.mean(), values.std()]))


def _events(vector: Vector, prefix: str, size: SensorSize) -> EventArray:
    t, x, y, p = (vector.input(prefix + name) for name in "txyp")
    return EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t.astype(np.int64), size)


def check_ternary_input(vector: Vector, registry: Registry) -> None:
    config = vector.json["config"]
    size = SensorSize(config["sensor"][1], config["sensor"][0])
    end, side = config["label_time_us"], config["imgsz"]
    window = EventWindow(_events(vector, "events_", size), end - config["window_us"], end)
    frames = registry.build(
        "representation", "ternary_image", size, steps=config["T"], network_size=None, newest_first=False
    )
    grey = (frames(window, torch.float64) * 255).round().to(torch.uint8)
    vector.compare("frames_channel0_TWH", grey[:, 0].transpose(1, 2))
    network = registry.build("representation", "ternary_image", size, steps=config["T"], network_size=[side, side])
    grey = (network(window, torch.float64) * 255).round().to(torch.uint8)
    assert (grey == grey[:, :1]).all()
    vector.compare("tensor_channel0_THW_uint8", grey[:, 0])
    placing = fit_into(
        size, SensorSize(side, side), interpolation="bilinear_8bit", pad=114, centred=True, round_up=True
    )
    assert network.letterbox == placing
    ratio = (placing.scaled.height / size.height, placing.scaled.width / size.width)
    vector.compare("ratio_h_w", np.array(ratio))
    vector.compare("pad_left_top", np.array([placing.left, placing.top]))
    order = np.argsort(vector.input("boxes_track"))[::-1]
    xywh = np.stack([vector.input(f"boxes_{name}") for name in "xywh"], axis=1)[order]
    centres, kept = centre_boxes(xywh, size)
    classes = vector.input("boxes_class")[order][kept, None]
    vector.compare("labels_cls_xywh_px", np.concatenate([classes, centres[kept]], axis=1).astype(np.float32))
    shares = centres[kept] / np.array([size.width, size.height] * 2)
    vector.compare("labels_cls_xywh_normalised", np.concatenate([classes, shares], axis=1))
    vector.compare("tensor_labels_xywh_normalised", place_centre_boxes(centres[kept], placing).astype(np.float32))

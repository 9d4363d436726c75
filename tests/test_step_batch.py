"""Windows of several streams as one batch: the numbers of single steps, and each stream's own state."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from snn_perception.detector import build_preset
from snn_perception.engine.parity import ParityMeter
from snn_perception.errors import EventDataError, SpecError
from snn_perception.images.stream import ImageStream
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.stream import StreamState
from snn_perception.state import named_leaves
from snn_perception.testing.firing import wake
from snn_perception.types import SensorSize
from tests.batch_support import correspond, spikes_agree
from tests.image_support import raw_image, scene, small_detector
from tests.runtime_support import random_windows, tiny_registry

WINDOW_US, CAMERAS, WINDOWS = 10_000, 4, 10


def made(name, dtype=torch.float32):
    """Return a pipeline whose every layer fires, and windows of several cameras for it.

    In float64 rounding is too small to decide whether a neuron fires.
    """
    registry = tiny_registry()
    small = {} if name == "tiny" else {"height": 64, "width": 96, "window_us": WINDOW_US}
    detector = build_preset(name, registry=registry, **small)
    rate = 1500 if small else 400
    cameras = [
        random_windows(WINDOWS, detector.spec.sensor_size, per_window=rate, seed=100 * k) for k in range(CAMERAS)
    ]
    inputs = torch.cat([detector.represent(window) for window in cameras[0]])
    assert min(wake(detector.backbone, inputs).values()) > 0.01
    return DetectionPipeline(detector.to(dtype)), cameras


@pytest.fixture(scope="module")
def exact():
    return made("st_vgg_ssd_16", torch.float64)


@pytest.fixture(scope="module", params=["tiny", "st_vgg_ssd_16"])
def firing(request):
    return (*made(request.param), request.param)


def singly(pipeline, cameras):
    """Return of each window number what every camera sees, each by itself, and the states before."""
    streams, found = [StreamState() for _ in cameras], []
    for windows in zip(*cameras, strict=True):
        ran = [pipeline.step(window, stream) for window, stream in zip(windows, streams, strict=True)]
        found.append((windows, streams, ran))
        streams = [after for _, after in ran]
    return found


def leaves(stream):
    return [leaf for _, leaf in named_leaves(stream.model)]


def same_bits(one, other):
    (seen, stream), (seen_by_other, of_other) = one, other
    pairs = zip(leaves(stream), leaves(of_other), strict=True)
    return seen == seen_by_other and all(torch.equal(a, b) for a, b in pairs)


def test_a_batch_of_one_is_a_step(firing):
    pipeline, cameras, _ = firing
    for windows, streams, ran in singly(pipeline, cameras[:1]):
        (batched,) = pipeline.step_batch(windows, streams)
        assert same_bits(batched, ran[0]) and replace(batched[1], model=None) == replace(ran[0][1], model=None)
        assert len(batched[0])


@pytest.mark.parametrize("rows", [2, 3, CAMERAS])
def test_a_batch_sees_what_single_steps_see(rows, firing):
    pipeline, cameras, name = firing
    meter, clean = ParityMeter(), 0
    for windows, streams, ran in singly(pipeline, cameras[:rows]):
        batched = pipeline.step_batch(windows, streams)
        for (seen, stream), (alone, expected) in zip(batched, ran, strict=True):
            assert replace(stream, model=None) == replace(expected, model=None)
            pairs = zip(leaves(expected), leaves(stream), strict=True)
            meter.add([(a.numpy(), b.numpy()) for a, b in pairs], ())
            agree = spikes_agree(stream.model, expected.model)
            clean += agree
            assert not agree or correspond(seen, alone)
            if name == "tiny" and agree:
                assert seen == alone, "its boxes are made of spikes, which carry no rounding"
            assert len(seen) > 0
    parity = meter.parity()
    assert parity.flips < 1e-5 and parity.membrane_error < 1e-5
    assert clean >= 0.9 * rows * WINDOWS


def test_a_batch_is_repeated_bit_for_bit_and_leaves_its_streams_alone(firing):
    pipeline, cameras, _ = firing
    for windows, streams, _ in singly(pipeline, cameras)[:4]:
        before = [[leaf.clone() for leaf in leaves(stream)] for stream in streams]
        first, second = (pipeline.step_batch(windows, streams) for _ in range(2))
        assert all(map(same_bits, first, second))
        for stream, kept in zip(streams, before, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(leaves(stream), kept, strict=True))


def test_the_order_of_cameras_does_not_matter(exact):
    pipeline, cameras = exact
    windows, streams, _ = singly(pipeline, cameras)[5]
    forth = pipeline.step_batch(windows, streams)
    back = pipeline.step_batch(windows[::-1], streams[::-1])[::-1]
    for (seen, stream), (other, of_other) in zip(forth, back, strict=True):
        assert correspond(seen, other) and spikes_agree(stream.model, of_other.model)
    assert not correspond(forth[0][0], forth[1][0]), "the cameras see different things"


def test_no_row_keeps_the_memory_of_the_others(firing):
    pipeline, cameras, _ = firing
    windows, streams, _ = singly(pipeline, cameras)[2]
    for _, stream in pipeline.step_batch(windows, streams):
        assert leaves(stream)
        for leaf in leaves(stream):
            assert leaf.shape[0] == 1 and leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size()


@pytest.mark.parametrize("policy", ["hold", "leak", "reset"])
def test_each_row_follows_on_in_its_own_way(policy, exact):
    """The first window of a stream, one after an interruption, one after missing windows, and one that follows."""
    model, cameras = exact
    pipeline = DetectionPipeline(model.detector, gap_policy=policy)
    _, streams, _ = singly(pipeline, cameras)[3]
    windows = [
        cameras[0][0],
        replace(cameras[1][3], after_gap=True),
        cameras[2][6],
        cameras[3][3],
    ]
    streams = [StreamState(), *streams[1:]]
    alone = [pipeline.step(window, stream) for window, stream in zip(windows, streams, strict=True)]
    batched = pipeline.step_batch(windows, streams)
    for (seen, stream), (expected, after) in zip(batched, alone, strict=True):
        assert correspond(seen, expected) and spikes_agree(stream.model, after.model)
        assert replace(stream, model=None) == replace(after, model=None)
    assert [stream.resets for _, stream in batched] == [0, 1, int(policy == "reset"), 0]
    assert [stream.gaps for _, stream in batched] == [0, 1, 1, 0]


def test_windows_that_start_from_rest_leave_no_state():
    registry = tiny_registry()
    pipeline = DetectionPipeline(build_preset("tiny", registry=registry, state_policy="per_window"))
    cameras = [random_windows(3, pipeline.spec.sensor_size, seed=seed) for seed in (1, 2)]
    for windows, streams, ran in singly(pipeline, cameras):
        batched = pipeline.step_batch(windows, streams)
        assert [seen for seen, _ in batched] == [seen for seen, _ in ran] and len(batched[0][0])
        assert [stream.model for _, stream in batched] == [None, None]


def test_sensors_of_different_sizes_share_a_batch(exact):
    model, cameras = exact
    larger = SensorSize(128, 192)
    others = random_windows(WINDOWS, larger, per_window=3000, seed=7)
    for windows, streams, ran in singly(model, [cameras[0], others])[:5]:
        batched = model.step_batch(windows, streams)
        assert all(correspond(seen, alone) for (seen, _), (alone, _) in zip(batched, ran, strict=True))
        assert [stream.size for _, stream in batched] == [model.spec.sensor_size, larger]
        (mine, _), (of_other, _) = batched
        assert mine.xyxy[:, 2].max() <= 96 < of_other.xyxy[:, 2].max() <= 192


def test_a_sensor_that_does_not_fit_fails_before_anything_is_run():
    model, cameras = made("tiny")
    strict = DetectionPipeline(model.detector, geometry="strict")
    other = random_windows(1, SensorSize(64, 64), seed=7)[0]
    with pytest.raises(EventDataError):
        strict.step_batch([cameras[0][0], other], [StreamState(), StreamState()])


def test_images_of_different_sizes_share_a_batch():
    registry = tiny_registry()
    pipeline = DetectionPipeline(small_detector(registry).double(), registry=registry)
    sides = ((90, 160), (96, 128), (200, 180))
    streams = [ImageStream(pipeline.spec.window_us) for _ in sides]
    states, seen_px = [StreamState() for _ in sides], np.zeros((len(sides), 2))
    for number in (1, 2):
        windows = [
            stream.push(raw_image(scene(*side, number), stamp_ns=number * 33_000_000))
            for stream, side in zip(streams, sides, strict=True)
        ]
        alone = [pipeline.step(window, state) for window, state in zip(windows, states, strict=True)]
        batched = pipeline.step_batch(windows, states)
        for row, ((seen, stream), (expected, after)) in enumerate(zip(batched, alone, strict=True)):
            assert len(seen) > 0 and correspond(seen, expected)
            assert replace(stream, model=None) == replace(after, model=None)
            seen_px[row] = np.maximum(seen_px[row], seen.xyxy[:, [3, 2]].max(axis=0))
        states = [after for _, after in alone]
    assert (seen_px <= sides).all() and (seen_px > 0.9 * np.array(sides)).all(), "boxes are in pixels of each image"


def test_what_cannot_be_a_batch_is_refused():
    pipeline, cameras = made("tiny")
    assert pipeline.step_batch([], []) == []
    with pytest.raises(ValueError, match="got 2 windows, 1 streams"):
        pipeline.step_batch([cameras[0][0], cameras[1][0]], [StreamState()])
    pipeline._deadline_ms = 5.0
    with pytest.raises(SpecError, match="deadline_ms: each window stops after steps of its own"):
        pipeline.step_batch([cameras[0][0], cameras[1][0]], [StreamState(), StreamState()])

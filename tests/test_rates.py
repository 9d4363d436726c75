"""Detections more often than windows: each bank is a plain stream on a shifted grid, a peek leaves no trace."""

from dataclasses import replace

import pytest
import torch

from snn_perception import DetectionPipeline
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import Detector
from snn_perception.errors import SpecError
from snn_perception.events.windower import Windower
from snn_perception.runtime.rates import FasterRate, camera_of, faster_rate, stream_name
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.stream import StreamState
from snn_perception.testing import wake
from snn_perception.types import EventArray, SensorSize

SIZE = SensorSize(64, 96)
WINDOW_US, TIMES = 50_000, 5
STRIDE_US = WINDOW_US // TIMES
END_US = 600_000


def events():
    return EventArray.concatenate(list(moving_shapes(SIZE, END_US, seed=3)), SIZE)


def cut(found, stride_us=WINDOW_US, **options):
    """Return the windows of events, without the last, partial one."""
    return list(Windower(WINDOW_US, SIZE, stride_us=stride_us, **options).push(found))


@pytest.fixture(scope="module")
def model(registry):
    """Return a small model that fires in every layer and carries its membranes."""
    spec = registry.build("preset", "st_vgg_ssd_16", height=SIZE.height, width=SIZE.width)
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})
    torch.manual_seed(0)
    detector = Detector(replace(spec, head=head), registry).eval()
    assert min(wake(detector, [detector.represent(window) for window in cut(events())[:3]]).values()) > 0
    return detector


def plain(model, windows):
    """Return what a model sees in windows one after the other."""
    pipeline, stream, found = DetectionPipeline(model, max_detections=20), StreamState(), []
    for window in windows:
        one, stream = pipeline.step(window, stream)
        found.append(one)
    return found


def served(model, windows, mode, journal=None):
    """Return what comes of windows that overlap, with their ends, and the serving behind it."""
    rate = FasterRate(WINDOW_US, TIMES, mode)
    serving = Serving(DetectionPipeline(model, max_detections=20), *([journal] if journal else []))
    serving.begin()
    published, parts = [], []
    for window in windows:
        part = rate.part(window)
        name = stream_name("left", part.phase)
        if part.peek_at_us is None:
            published.append(serving.window(name, part.window))
        else:
            published.append(serving.peek(name, part.window, part.peek_at_us))
        parts.append(part)
    return published, parts, serving


def test_every_bank_is_a_plain_stream_on_a_shifted_grid(model):
    found = events()
    published, parts, _ = served(model, cut(found, STRIDE_US), "phase_banks")
    assert [one.t_us for one in published] == list(range(STRIDE_US, END_US, STRIDE_US))
    seen = set()
    for phase in range(TIMES):
        shift_us = phase * STRIDE_US
        moved = EventArray(found.x, found.y, found.p, found.t - shift_us, SIZE)
        windows = cut(moved[int(moved.t.searchsorted(0)) :]) if phase == 0 else cut(moved, t_start_us=-WINDOW_US)
        expected = plain(model, windows)
        mine = [one for one, part in zip(published, parts, strict=True) if part.phase == phase]
        assert len(mine) >= 10 and min(map(len, mine)) > 0
        assert [replace(one, t_us=0) for one in mine] == [replace(one, t_us=0) for one in expected[: len(mine)]]
        assert [one.t_us - shift_us for one in mine] == [one.t_us for one in expected[: len(mine)]]
        seen.add(mine[3].xyxy.tobytes())
    assert len(seen) == TIMES, "each sees something else"


def test_a_peek_sees_the_part_that_is_there_and_leaves_no_trace(model):
    found = events()
    published, parts, serving = served(model, cut(found, STRIDE_US), "peek")
    at_grid = [one for one, part in zip(published, parts, strict=True) if part.peek_at_us is None]
    windows = cut(found)
    assert at_grid == plain(model, windows)[: len(at_grid)] and len(at_grid) >= 10
    pipeline, stream = DetectionPipeline(model, max_detections=20), StreamState()
    differ = 0
    for k, window in enumerate(windows[:6]):
        for part_us in range(STRIDE_US, WINDOW_US, STRIDE_US):
            at_us = k * WINDOW_US + part_us
            so_far = replace(window, events=window.events[: int(window.events.t.searchsorted(at_us))])
            expected, _ = pipeline.step(so_far, stream)
            (seen,) = [one for one in published if one.t_us == at_us]
            assert replace(seen, t_us=0) == replace(expected, t_us=0)
            differ += seen != at_grid[k]
        _, stream = pipeline.step(window, stream)
    assert differ > 10
    assert set(serving.streams) == {"left"} and serving.streams["left"].windows == len(at_grid)


@pytest.mark.parametrize("mode", ["phase_banks", "peek"])
def test_an_interruption_reaches_every_state(model, mode):
    """The clock of the sensor goes on by a multiple of the window, so that time alone would not tell."""
    found = events()
    windower = Windower(WINDOW_US, SIZE, stride_us=STRIDE_US)
    half = int(found.t.searchsorted(300_000))
    windows = [*windower.push(found[:half]), *windower.interrupt(300_000), *windower.push(found[half:])]
    assert sum(window.after_gap for window in windows) == 1
    begin = next(k for k, window in enumerate(windows) if window.after_gap)
    published, parts, serving = served(model, windows, mode)
    afresh, _, _ = served(model, windows[begin:], mode)
    assert published[begin:] == afresh, "nothing from before counts"
    assert all(stream.resets == 1 for stream in serving.streams.values())
    assert len(serving.streams) == (TIMES if mode == "phase_banks" else 1) and len(parts) == len(published)


@pytest.mark.parametrize("mode", ["phase_banks", "peek"])
def test_a_journal_repeats_them(model, mode):
    entries = []
    windows = cut(events(), STRIDE_US)
    published, parts, _ = served(model, windows, mode, entries.append)
    sources = Sources({"left": parts}, {}.get, {}.get)
    again = repeat(entries, DetectionPipeline(model), sources)
    assert [one.detections for one in again] == published


def test_what_cannot_be_divided_is_refused(model):
    with pytest.raises(SpecError, match="rate_times: expected a divisor of the model's window of 50000 us, got 3"):
        FasterRate(WINDOW_US, 3, "peek")
    with pytest.raises(SpecError, match="rate_mode: expected phase_banks or peek, got 'often'"):
        FasterRate(WINDOW_US, 5, "often")
    assert faster_rate({"rate_times": 1, "rate_mode": "peek"}, model.spec) is None
    overlapping = replace(model.spec, stride_us=10_000, state_policy="per_window")
    with pytest.raises(SpecError, match="windows overlap already"):
        faster_rate({"rate_times": 5, "rate_mode": "peek"}, overlapping)


def test_names_of_streams():
    assert [stream_name("left", phase) for phase in (0, 3)] == ["left", "left@3"]
    assert [camera_of(name) for name in ("left", "left@3", "", "@2")] == ["left", "left", "", ""]

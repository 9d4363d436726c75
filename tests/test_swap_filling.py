"""Windows whose grids are filled for another model from the next window on: exactly from there, and the same bytes."""

from dataclasses import replace

import pytest

from snn_perception import DetectionPipeline
from snn_perception.data.shapes import moving_shapes
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.stream import PacketWindows
from snn_perception.events.windower import Windower
from snn_perception.runtime.stream import StreamState
from snn_perception.types import SensorSize
from tests.test_serving import SIZE, WINDOW_US, pipeline

OTHER = SensorSize(32, 48)
PACKETS = list(packetize(moving_shapes(SIZE, 10 * WINDOW_US, seed=3), SIZE, interval_us=7_000))


@pytest.fixture(scope="module")
def models(registry):
    return pipeline(registry), pipeline(registry, seed=1)


@pytest.mark.parametrize("at", [0, 1, 20, 21, 22, 36])
def test_from_the_next_window_on_grids_are_the_new_models(models, registry, at):
    old, new = models
    source = PacketWindows(registry, WINDOW_US, max_gap_us=None, make_filler=old.make_filler)
    windows, expected_first = [], 0
    for k, packet in enumerate(PACKETS):
        if k == at:
            source.fill_with(new.make_filler)
            expected_first = len(windows) + (1 if k else 0)  # the window that is open goes on with the old one's
        windows += source.push(packet)
    windows += source.flush()
    makers = [window.filled.maker for window in windows]
    first = makers.index(new.detector.representation)
    assert first == expected_first
    assert makers == [old.detector.representation] * first + [new.detector.representation] * (len(makers) - first)
    stream, plain_stream, seen = StreamState(), StreamState(), 0
    plain = DetectionPipeline(new.detector, max_detections=20)
    for window in windows[first:]:
        assert new._inputs.is_filled(window, new._inputs.mapping(SIZE, "scale")), "no event is mapped again"
        found, stream = new.step(window, stream)
        expected, plain_stream = plain.step(replace(window, filled=None), plain_stream)
        assert found == expected
        seen += len(found)
    assert seen > 20


def test_a_model_that_fills_no_grids_gets_plain_windows(models, registry):
    old, _ = models
    source = PacketWindows(registry, WINDOW_US, max_gap_us=None, make_filler=old.make_filler)
    windows = [window for packet in PACKETS[:20] for window in source.push(packet)]
    source.fill_with(None)
    later = [window for packet in PACKETS[20:] for window in source.push(packet)]
    assert all(window.filled is not None for window in [*windows, later[0]])
    assert later[1:] and all(window.filled is None for window in later[1:])


def test_after_a_change_of_size_the_new_model_is_filled_too(models, registry):
    old, new = models
    source = PacketWindows(registry, WINDOW_US, max_gap_us=None, make_filler=old.make_filler)
    source.fill_with(new.make_filler)
    small = packetize(moving_shapes(OTHER, 3 * WINDOW_US, seed=3), OTHER, interval_us=7_000)
    windows = [window for packet in [*PACKETS[:9], *small] for window in source.push(packet)]
    assert {window.size for window in windows} == {SIZE, OTHER}
    assert {id(window.filled.maker) for window in windows} == {id(new.detector.representation)}


def test_windows_that_overlap_are_not_filled(models):
    windower = Windower(WINDOW_US, SIZE, stride_us=WINDOW_US // 5)
    windower.fill_with(None)
    with pytest.raises(ValueError, match="windows that overlap share events"):
        windower.fill_with(models[0].make_filler(SIZE))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError
from snn_perception.events.geometry import InputMapping
from snn_perception.types import Detections, EventArray, EventWindow, SensorSize

SENSOR = SensorSize(height=480, width=640)
MODEL = SensorSize(height=240, width=304)
sizes = st.builds(SensorSize, st.integers(1, 300), st.integers(1, 300))


def window_at(x, y, size):
    count = len(x)
    columns = np.array(x, np.uint16), np.array(y, np.uint16), np.arange(count, dtype=np.uint8) % 2
    return EventWindow(EventArray(*columns, np.arange(count, dtype=np.int64), size), 0, 1000, "left", lossy=True)


def every_pixel(size):
    y, x = np.mgrid[: size.height, : size.width]
    return window_at(x.ravel(), y.ravel(), size)


def boxes(*xyxy):
    count = len(xyxy)
    return Detections(np.array(xyxy, np.float32), np.linspace(1, 0.5, count, dtype=np.float32), np.arange(count), 77)


def test_equal_sizes_change_nothing():
    mapping = InputMapping(SENSOR, SENSOR, "strict")
    window, found = every_pixel(SENSOR), boxes([-3, 0, 700, 20])
    assert mapping.events(window) is window
    assert mapping.boxes(found) is found


def test_scaling_keeps_every_event_and_its_place():
    window = window_at([0, 1, 319, 320, 639], [0, 1, 240, 479, 479], SENSOR)
    mapped = InputMapping(SENSOR, MODEL, "scale").events(window)
    assert mapped.events.size == MODEL
    assert mapped.events.x.tolist() == [0, 0, 151, 152, 303]
    assert mapped.events.y.tolist() == [0, 0, 120, 239, 239]
    for name in ("p", "t"):
        np.testing.assert_array_equal(getattr(mapped.events, name), getattr(window.events, name))
    assert (mapped.stream, mapped.lossy, mapped.t_end_us) == ("left", True, 1000)


def test_cropping_keeps_the_middle():
    window = window_at([0, 167, 168, 471, 472], [240] * 5, SENSOR)
    mapped = InputMapping(SENSOR, MODEL, "crop").events(window)
    assert mapped.events.x.tolist() == [0, 303]
    assert mapped.events.y.tolist() == [120, 120]
    assert mapped.events.t.tolist() == [2, 3]
    assert mapped.events.p.tolist() == [0, 1]


def test_cropping_centres_a_smaller_sensor():
    window = window_at([0, 99], [0, 49], SensorSize(50, 100))
    mapped = InputMapping(window.events.size, MODEL, "crop").events(window)
    assert mapped.events.x.tolist() == [102, 201]
    assert mapped.events.y.tolist() == [95, 144]


def test_cropping_an_odd_margin_leaves_the_smaller_half_first():
    window = window_at([0, 1, 2, 3, 4], [0] * 5, SensorSize(1, 5))
    mapped = InputMapping(window.events.size, SensorSize(1, 2), "crop").events(window)
    assert mapped.events.t.tolist() == [1, 2]


def test_strict_refuses_and_says_what_to_set():
    with pytest.raises(EventDataError, match="sensor is 640x480, the model expects 304x240; set geometry"):
        InputMapping(SENSOR, MODEL, "strict")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="scale, crop, strict"):
        InputMapping(SENSOR, MODEL, "stretch")  # type: ignore[arg-type]


def test_boxes_are_cut_to_the_sensor():
    found = InputMapping(SENSOR, MODEL, "scale").boxes(boxes([-10, -5, 400, 300], [0, 0, 304, 240]))
    np.testing.assert_array_equal(found.xyxy, np.array([[0, 0, 640, 480]] * 2, np.float32))
    assert found.xyxy.dtype == np.float32
    assert found.t_us == 77
    found = InputMapping(SENSOR, MODEL, "crop").boxes(boxes([0, 0, 304, 240], [-300, 10, 20, 20]))
    np.testing.assert_array_equal(found.xyxy, np.array([[168, 120, 472, 360], [0, 130, 188, 140]], np.float32))


@given(sizes, sizes)
def test_scaled_events_lie_on_the_model(sensor, model):
    mapped = InputMapping(sensor, model, "scale").events(every_pixel(sensor)).events
    assert len(mapped) == sensor.height * sensor.width
    mapped.validate()


@given(sizes, sizes)
def test_cropped_events_lie_on_the_model_and_as_many_as_fit(sensor, model):
    mapped = InputMapping(sensor, model, "crop").events(every_pixel(sensor)).events
    assert len(mapped) == min(sensor.height, model.height) * min(sensor.width, model.width)
    mapped.validate()


@given(sizes, sizes, st.sampled_from(["scale", "crop"]), st.data())
def test_a_box_around_a_pixel_comes_back_within_a_pixel(sensor, model, mode, data):
    """The model's pixel of an event, as a box, maps back to a box that holds the event's pixel, give or take one."""
    x, y = data.draw(st.integers(0, sensor.width - 1)), data.draw(st.integers(0, sensor.height - 1))
    mapping = InputMapping(sensor, model, mode)
    events = mapping.events(window_at([x], [y], sensor)).events
    if not len(events):
        assert mode == "crop"
        return
    at = [int(events.x[0]), int(events.y[0])]
    (x1, y1, x2, y2) = mapping.boxes(boxes([*at, at[0] + 1, at[1] + 1])).xyxy[0].tolist()
    assert x1 - 1 <= x and x + 1 <= x2 + 1
    assert y1 - 1 <= y and y + 1 <= y2 + 1
    if mode == "crop":
        assert [x1, y1, x2, y2] == [x, y, x + 1, y + 1]
    else:
        assert x2 - x1 == pytest.approx(sensor.width / model.width, rel=1e-3)

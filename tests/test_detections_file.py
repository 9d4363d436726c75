import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.runtime.detections_file import DetectionsWriter, read_detections, to_line
from snn_perception.types import Detections, EventArray, EventWindow
from tests.runtime_support import SIZE, random_windows

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def detections_of(xyxy, score):
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(score, np.float32),
        np.arange(len(score), dtype=np.int64),
        20_000,
    )


@given(st.lists(st.tuples(finite, finite, finite, finite, finite), max_size=5))
def test_every_float32_comes_back_bit_for_bit(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "floats.jsonl"
    found = detections_of([row[:4] for row in rows], [row[4] for row in rows])
    window = EventWindow(EventArray.empty(SIZE), 10_000, 20_000, lossy=True, after_gap=True)
    with DetectionsWriter(path) as writer:
        writer.write(window, found)
    (line,) = read_detections(path)
    assert line.detections == found
    assert (line.window, line.t_start_us, line.t_end_us, line.lossy, line.after_gap) == (0, 10_000, 20_000, True, True)


def test_random_bit_patterns_come_back_too():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 40_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    values = values[: len(values) // 4 * 4].reshape(-1, 4)
    found = Detections(values, np.zeros(len(values), np.float32), np.zeros(len(values), np.int64))
    line = json.loads(to_line(0, random_windows(1)[0], found))
    assert np.array(line["xyxy"], np.float32).tobytes() == values.tobytes()


def test_numbers_are_written_short_for_people():
    found = detections_of([[0.1, 304, 1 / 3, 1e-7]], [0.9])
    assert '"xyxy": [[0.1, 304.0, 0.33333334, 1e-07]], "score": [0.9]' in to_line(0, random_windows(1)[0], found)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_and_leaves_no_file(value, tmp_path):
    (window,) = random_windows(1)
    with (
        pytest.raises(SnnPerceptionError, match=r"window 1 at 0 us: .* not finite numbers"),
        DetectionsWriter(tmp_path / "d.jsonl") as writer,
    ):
        writer.write(window, detections_of([[0, 0, 1, 1]], [0.5]))
        writer.write(window, detections_of([[0, 0, 1, value]], [0.5]))
    assert list(tmp_path.iterdir()) == []


LINE = to_line(0, random_windows(1)[0], detections_of([[0, 0, 1, 1]], [0.5]))


@pytest.mark.parametrize(
    "damaged",
    [
        LINE[:-5],
        "",
        "[]",
        "7",
        "[" * 100_000,
        LINE.replace('"window": 0', '"window": "0"'),
        LINE.replace('"window": 0, ', ""),
        LINE.replace("[0.5]", "[0.5, 0.4]"),
        LINE.replace("[[0.0, 0.0, 1.0, 1.0]]", "[[0.0, 0.0, 1.0]]"),
        LINE.replace('"class_id": [0]', '"class_id": [1e99]'),
        LINE.replace('"score": [0.5]', '"score": 0.5'),
    ],
)
def test_a_damaged_line_is_named(damaged, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(f"{LINE}\n{damaged}\n{LINE}\n")
    lines = read_detections(path)
    assert next(lines).window == 0
    with pytest.raises(EventDataError, match="line 2: expected one window's detections"):
        next(lines)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("d.jsonl", "none.jsonl"):
        with pytest.raises(EventDataError, match=f"{name}: cannot be read as detections"):
            list(read_detections(tmp_path / name))

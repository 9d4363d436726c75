"""A stream's state in a file: everything comes back, another model's is refused, damage is told."""

import json
from dataclasses import replace

import pytest
import torch

from snn_perception import DetectionPipeline, build_preset
from snn_perception.data.shapes import MovingShapes
from snn_perception.errors import CheckpointError
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.runtime.replay import WindowSource
from snn_perception.runtime.state_file import SavedStream, load_stream, save_stream
from snn_perception.runtime.stream import StreamState
from snn_perception.runtime.waking import wake_on_recording
from snn_perception.state import from_leaves, named_leaves, outline
from snn_perception.tensor_file import read_tensors, write_tensors
from snn_perception.types import SensorSize

DEEP = "[" * 3000 + "]" * 3000  # JSON of a list in a list in a list ...


@pytest.fixture(scope="module")
def shapes_dat(tmp_path_factory):
    """Return the path of a DAT file of moving shapes, 20 windows long."""
    path, size = tmp_path_factory.mktemp("recording") / "shapes.dat", SensorSize(240, 304)
    write_dat(path, MovingShapes(size, 1_000_000, seed=3), size)
    return path


@pytest.fixture(scope="module")
def half_way(registry, shapes_dat):
    """Return a pipeline that fires, the windows that are left, and the stream's state before them."""
    detector = build_preset("st_vgg_ssd_16", registry=registry)
    assert min(wake_on_recording(detector, shapes_dat, registry, windows=6).values()) > 0
    pipeline, stream = DetectionPipeline(detector), StreamState()
    windows = list(WindowSource(open_recording(shapes_dat, registry), registry, pipeline.spec.window_us))
    for window in windows[:8]:
        _, stream = pipeline.step(window, stream)
    return pipeline, windows[8:], stream


def test_a_loaded_state_goes_on_as_the_one_that_was_saved(half_way, tmp_path):
    pipeline, windows, stream = half_way
    save_stream(tmp_path / "left.safetensors", SavedStream(stream, 123), pipeline.spec)
    loaded = load_stream(tmp_path / "left.safetensors", pipeline.spec)
    assert loaded.stamp_ns == 123 and replace(loaded.stream, model=None) == replace(stream, model=None)
    assert any(leaf.any() for _, leaf in named_leaves(loaded.stream.model))
    one, two, rest = stream, loaded.stream, StreamState()
    differs = False
    for window in windows[:6]:
        expected, one = pipeline.step(window, one)
        found, two = pipeline.step(window, two)
        afresh, rest = pipeline.step(window, rest)
        assert found == expected and len(found) > 0
        differs = differs or afresh != expected
    assert differs, "the membranes count"


def test_rest_can_be_saved(half_way, tmp_path):
    spec = half_way[0].spec
    save_stream(tmp_path / "rest.safetensors", SavedStream(StreamState(windows=3, resets=1)), spec)
    assert load_stream(tmp_path / "rest.safetensors", spec) == SavedStream(StreamState(windows=3, resets=1))


def test_another_models_state_is_refused(half_way, tmp_path):
    pipeline, _, stream = half_way
    save_stream(tmp_path / "s.safetensors", SavedStream(stream), pipeline.spec)
    other = replace(pipeline.spec, sensor_size=SensorSize(120, 160))
    with pytest.raises(
        CheckpointError, match=rf"another model: expected spec {other.hash()}, got {pipeline.spec.hash()}"
    ):
        load_stream(tmp_path / "s.safetensors", other)


def test_what_is_no_state_is_one_clear_error(half_way, tmp_path):
    pipeline, _, stream = half_way
    path = tmp_path / "s.safetensors"
    with pytest.raises(CheckpointError, match="no such saved state"):
        load_stream(path, pipeline.spec)
    write_tensors(path, {}, {"spec": "{}"})
    with pytest.raises(CheckpointError, match="expected a saved state of format 1"):
        load_stream(path, pipeline.spec)
    save_stream(path, SavedStream(stream), pipeline.spec)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        load_stream(path, pipeline.spec)
    save_stream(path, SavedStream(stream), pipeline.spec)
    tensors, texts = read_tensors(path)
    content = json.loads(texts["content"])
    first = next(name for name, leaf in tensors.items() if leaf.any())
    poisoned = {**tensors, first: torch.full_like(tensors[first], torch.inf)}
    for changed, words in (
        ({"tensors": {}}, "KeyError"),
        ({"tensors": poisoned}, "not finite"),
        ({"outline": 3}, "expected the outline of a state"),
        ({"outline": DEEP}, "is no saved state"),
        ({"size": [0]}, "is no saved state"),
        ({"t_end_us": "x"}, "is no saved state"),
    ):
        text = json.dumps({**content, **{name: value for name, value in changed.items() if name != "tensors"}})
        text = text.replace(json.dumps(DEEP), DEEP)  # not a text but a structure
        write_tensors(path, changed.get("tensors", tensors), {**texts, "content": text})
        with pytest.raises(CheckpointError, match=words):
            load_stream(path, pipeline.spec)


def test_outlines_build_the_same_tree():
    state = {"backbone": (torch.ones(1), None, (torch.zeros(2), {"a": torch.full((1,), 3.0)})), "head": None}
    again = from_leaves(json.loads(json.dumps(outline(state))), dict(named_leaves(state)))
    assert outline(again) == outline(state)
    assert [name for name, _ in named_leaves(again)] == ["backbone.0", "backbone.2.0", "backbone.2.1.a"]
    with pytest.raises(KeyError):
        from_leaves(outline(state), {})

"""One exported step and the engines that run it: the same numbers as the detector, with the state in and out."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from snn_perception import DetectionPipeline, build_preset
from snn_perception.engine.artifact import read_sidecar, sidecar_path
from snn_perception.engine.choose import build_engine
from snn_perception.engine.engines import DetectorEngine, EagerEngine, Settings
from snn_perception.engine.export import export_onnx
from snn_perception.engine.onnx_runtime import OnnxRuntimeEngine
from snn_perception.engine.parity import compare
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.step import Step
from snn_perception.errors import ExportError, SpecError
from snn_perception.runtime.stream import StreamState
from snn_perception.selection import select
from snn_perception.state import clone, named_leaves, stack_rows
from snn_perception.testing import event_window, wake

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")

WINDOWS = 12


@pytest.fixture(scope="module")
def detector(registry):
    detector = build_preset("st_vgg_ssd_16", registry=registry, height=64, width=96)
    wake(detector, synthetic_inputs(detector, 6))
    return detector


@pytest.fixture(scope="module")
def inputs(detector):
    return synthetic_inputs(detector, WINDOWS)


@pytest.fixture(scope="module")
def graph(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    return path, export_onnx(detector, path)


def leaves(state):
    return [leaf for _, leaf in named_leaves(state)]


def run(engine, inputs, state=None):
    raws = []
    for x in inputs:
        raw, state = engine(x, state)
        raws.append(raw)
    return raws, state


def test_the_graph_names_every_membrane_and_takes_any_batch(graph, detector, inputs):
    path, report = graph
    model = onnx.load(path)
    _, state = detector(inputs[0])
    names = [name for name, _ in named_leaves(state)]
    assert len(names) == 11
    assert [i.name for i in model.graph.input] == ["events", "keep", "active", *(f"{name}_in" for name in names)]
    assert [o.name for o in model.graph.output][-11:] == [f"{name}_out" for name in names]
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_param
    assert model.opset_import[0].version == 18
    assert not {"If", "Loop", "Scan"} & report.operators.keys()
    assert "BatchNormalization" not in report.operators and report.operators["Conv"] == 23
    assert report.parity.windows == 8 and report.parity.clean >= 4 and report.state_effect > 1e-2


def test_the_sidecar_tells_all_that_a_program_needs(graph, detector):
    path, _ = graph
    sidecar = read_sidecar(path)
    assert json.loads(sidecar_path(path).read_text())["format"] == 1
    assert sidecar.classes == detector.spec.classes and sidecar.events == (1, 2, 64, 96)
    assert sidecar.state_policy == "carry" and sidecar.window_us == detector.spec.window_us
    assert sum(int(np.prod(one.shape)) for one in sidecar.states) == sum(
        leaf.numel() for leaf in leaves(detector(torch.zeros(1, 1, 2, 64, 96))[1])
    )
    assert all(0 < one.leak < 1 for one in sidecar.states)


def test_windows_carried_through_the_graph_are_those_of_the_detector(graph, detector, inputs):
    engine = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
    parity = compare(engine, EagerEngine(detector), inputs)
    assert parity.flips < 1e-6 and parity.membrane_error < 1e-5 and parity.raw_error < 1e-3
    assert parity.clean >= WINDOWS - 1
    fired = [float((leaf == 0).float().mean()) for leaf in leaves(run(engine, inputs)[1])]
    assert max(fired) > 0.01, "a hard reset leaves zeros where neurons fired"


def test_a_graph_that_forgot_its_state_would_be_noticed(graph, detector, inputs):
    engine = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
    _, state = run(engine, inputs[:4])
    carried, forgot = engine(inputs[4], state)[0], engine(inputs[4], None)[0]
    assert max(float((a - b).abs().max()) for a, b in zip(leaves(carried), leaves(forgot), strict=True)) > 1e-2


def test_an_export_that_ignores_its_state_is_refused(detector, tmp_path, monkeypatch):
    def forgetful(self, events, keep, active, *membranes):
        return original(self, events, keep * 0, active, *membranes)

    original = Step.forward
    monkeypatch.setattr(Step, "forward", forgetful)
    with pytest.raises(ExportError, match=r"differs from the detector|ignores its state"):
        export_onnx(detector, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_reset_leak_and_idle_rows_are_numbers(graph, detector, inputs):
    x = torch.cat(inputs[6:9], dim=1)
    ours = EagerEngine(detector)
    engine = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
    _, one = run(ours, inputs[:3])
    _, other = run(ours, inputs[3:6])
    state = stack_rows([one, other, other])
    keep, active = torch.tensor([0.0, -2.0, 1.0]), torch.tensor([True, True, False])
    (_, expected), (_, got) = ours(x, state, keep, active), engine(x, state, keep, active)
    for a, b, before in zip(leaves(expected), leaves(got), leaves(state), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
        assert torch.equal(b[2], before[2]), "an idle row keeps its membranes to the bit"
    reset = engine(inputs[6], None)[1]
    for a, b in zip(leaves(reset), leaves(got), strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-4)


def test_three_streams_in_a_batch_are_three_streams(graph, detector, inputs):
    engine = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
    singles = [run(engine, inputs[k : k + 4])[1] for k in (0, 4, 8)]
    _, together = run(engine, [torch.cat([inputs[k + t] for k in (0, 4, 8)], dim=1) for t in range(4)])
    for row, single in enumerate(singles):
        for a, b in zip(leaves(together), leaves(single), strict=True):
            assert torch.allclose(a[row : row + 1], b, atol=1e-4)


def test_boxes_and_scores_of_the_graph_become_the_detections_of_the_head(graph, detector, inputs):
    from snn_perception.engine.session import Session

    sidecar, session = read_sidecar(graph[0]), Session(graph[0])
    found = session.run(
        {
            "events": inputs[5].numpy(),
            "keep": np.zeros(1, np.float32),
            "active": np.ones(1, bool),
            **{f"{one.name}_in": np.zeros((1, *one.shape), np.float32) for one in sidecar.states},
        }
    )
    ours = select(found["boxes"][0], found["scores"][0], sidecar.selection, sidecar.network)
    (theirs,), _ = detector.infer(inputs[5])
    assert len(ours) == len(theirs) > 5
    assert np.allclose(ours.xyxy, theirs.xyxy, atol=1e-3) and np.array_equal(ours.class_id, theirs.class_id)
    assert np.allclose(ours.score, theirs.score, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: sidecar_path(path).unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "does not belong"),
        (lambda path: sidecar_path(path).write_text("[" * 100_000), "expected JSON"),
        (lambda path: sidecar_path(path).write_text('{"format": 1}'), "is missing"),
        (lambda path: sidecar_path(path).write_text('{"format": 9}'), "of format 1"),
    ],
)
def test_damaged_artifacts_are_one_clear_error(graph, tmp_path, spoil, words):
    path = tmp_path / "m.onnx"
    path.write_bytes(graph[0].read_bytes())
    sidecar_path(path).write_bytes(sidecar_path(graph[0]).read_bytes())
    read_sidecar(path)
    spoil(path)
    with pytest.raises(ExportError, match=words):
        read_sidecar(path)


def test_a_graph_of_other_weights_is_refused(graph, registry):
    other = build_preset("st_vgg_ssd_16", registry=registry, height=64, width=96, seed=5)
    with pytest.raises(ExportError, match="other weights"):
        OnnxRuntimeEngine(other, Settings(graph=graph[0]))


def test_a_state_of_another_model_is_refused(graph, detector, inputs):
    engine = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
    _, state = engine(inputs[0], None)
    with pytest.raises(ValueError, match="does not fit"):
        engine(torch.cat(inputs[:2], dim=1), state)
    with pytest.raises(ValueError, match="does not fit"):
        engine(inputs[0], {"backbone": state["backbone"][:-1], "head": None})


def test_an_exported_graph_is_found_again(detector, tmp_path):
    told = []
    settings = Settings(cache=tmp_path, on_stage=told.append)
    OnnxRuntimeEngine(detector, settings)
    assert any("exporting" in text for text in told)
    told.clear()
    OnnxRuntimeEngine(detector, settings)
    assert told == []


def test_unknown_engines_are_named(detector):
    with pytest.raises(SpecError, match="expected one of eager, detector"):
        build_engine("warp", detector)


class TestPipeline:
    def windows(self, detector, count=8):
        spec = detector.spec
        length = spec.window_us
        make = partial(event_window, spec.sensor_size, count=2_000, length_us=length)
        return [make(t_start_us=k * length, seed=k) for k in range(count)]

    def test_an_engine_may_follow_another_in_the_middle_of_a_stream(self, graph, detector):
        windows = self.windows(detector)
        steady, changing = DetectionPipeline(detector), DetectionPipeline(detector)
        ort = OnnxRuntimeEngine(detector, Settings(graph=graph[0]))
        a, b = StreamState(), StreamState()
        for k, window in enumerate(windows):
            changing.engine = ort if k % 2 else DetectorEngine(detector)
            given, kept = b.model, clone(b.model)
            found, a = steady.step(window, a)
            others, b = changing.step(window, b)
            assert len(found) == len(others) > 0
            assert np.allclose(found.score, others.score, atol=1e-4)
            assert all(torch.equal(x, y) for x, y in zip(leaves(given), leaves(kept), strict=True)), "left as it was"

    def test_catching_up_leaves_the_state_that_a_step_leaves(self, graph, detector):
        windows = self.windows(detector, 4)
        pipeline = DetectionPipeline(detector, engine=OnnxRuntimeEngine(detector, Settings(graph=graph[0])))
        a = b = StreamState()
        for window in windows:
            a = pipeline.advance(window, a)
            _, b = pipeline.step(window, b)
        assert all(torch.equal(x, y) for x, y in zip(leaves(a.model), leaves(b.model), strict=True))

    def test_a_deadline_and_an_engine_that_cannot_stop_exclude_each_other(self, registry):
        detector = build_preset("eas_snn_s_use_spike", registry=registry, network_size=[64, 96])
        pipeline = DetectionPipeline(detector, deadline_ms=50.0)
        with pytest.raises(SpecError, match="runs all steps"):
            pipeline.engine = EagerEngine(detector)

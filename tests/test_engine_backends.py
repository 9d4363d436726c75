"""Backends that need no compiler: the same step in OpenVINO and as a CUDA graph, and the choice among engines."""

import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from snn_perception.engine import auto
from snn_perception.engine.artifact import StateTensor
from snn_perception.engine.auto import choose, fastest_engine
from snn_perception.engine.choose import MAKERS, available, build_engine
from snn_perception.engine.cuda_graph import CudaGraphEngine, as_it_is
from snn_perception.engine.engines import DetectorEngine, EagerEngine, Settings
from snn_perception.engine.openvino import OpenVinoEngine, has_bf16
from snn_perception.engine.parity import compare
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.tensorrt import Memory
from snn_perception.engine.timing import Times
from snn_perception.errors import ExportError, SpecError
from snn_perception.state import clone
from tests.engine_support import (
    CHECKS,
    ST_VGG,
    STEPPED,
    WINDOWS,
    assert_has_the_detectors_numbers,
    awake_preset,
    check_a_second_start_makes_nothing,
    close,
    equal,
    oracle,
    run,
    tiny_detector,
)
from tests.paths import ROOT

HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_openvino = pytest.mark.skipif(
    not (HAS_ONNX and find_spec("openvino")), reason="the extras 'onnx' and 'openvino' are not installed"
)


@pytest.fixture(scope="module")
def st_vgg(registry):
    return awake_preset(*ST_VGG, registry)


@pytest.fixture(scope="module")
def tiny():
    return tiny_detector()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(cache=tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def cuda_graph(st_vgg):
    detector, inputs = st_vgg
    return CudaGraphEngine(detector, capture=as_it_is), oracle(detector, inputs[0]), inputs


@pytest.fixture(scope="module")
def openvino(st_vgg, settings):
    detector, inputs = st_vgg
    return OpenVinoEngine(detector, settings), oracle(detector, inputs[0]), inputs


@pytest.mark.parametrize("check", CHECKS)
def test_cuda_graph_keeps_the_contract(check, cuda_graph):
    check(*cuda_graph)


@needs_openvino
@pytest.mark.parametrize("check", CHECKS)
def test_openvino_keeps_the_contract(check, openvino):
    check(*openvino)


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize(("preset", "options"), STEPPED)
def test_families_with_several_steps_in_openvino(preset, options, registry, tmp_path):
    detector, inputs = awake_preset(preset, options, registry)
    assert_has_the_detectors_numbers(OpenVinoEngine(detector, Settings(cache=tmp_path)), detector, inputs)


class TestCudaGraph:
    def test_a_stream_stays_in_the_memory_and_gives_the_same_bits(self, st_vgg):
        detector, inputs = st_vgg
        engine = CudaGraphEngine(detector, capture=as_it_is)
        _, state = run(engine, inputs[:3])
        raw, after = engine(inputs[3], state)
        assert engine._graphs[1].resident is after
        copied_raw, copied = engine(inputs[3], clone(state))
        assert equal(raw, copied_raw) and equal(after, copied)
        stale_raw, stale = engine(inputs[3], state)
        assert equal(raw, stale_raw) and equal(after, stale), "a state of the past is no resident"

    def test_work_is_captured_once_for_each_batch_size(self, tiny):
        detector, inputs = tiny
        captured, replayed = [], []

        def watch(work, device):
            captured.append(work)
            return lambda: (replayed.append(work), work())

        engine = CudaGraphEngine(detector, capture=watch)
        assert len(captured) == 5 and replayed == []
        for rows, graph in ((1, 0), (3, 2), (4, 2), (16, 4)):
            replayed.clear()
            engine(torch.cat([inputs[0]] * rows, dim=1))
            assert replayed == [captured[graph]]
        assert len(captured) == 5

    def test_without_a_gpu_it_says_so(self, tiny):
        with pytest.raises(ExportError, match="needs a model on a CUDA device"):
            build_engine("cudagraph", tiny[0])

    @pytest.mark.gpu
    def test_a_recorded_graph_has_the_detectors_numbers(self, registry):
        detector = awake_preset(*ST_VGG, registry)[0].cuda()
        inputs = synthetic_inputs(detector, WINDOWS)
        engine = CudaGraphEngine(detector)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            assert_has_the_detectors_numbers(engine, detector, inputs)
        _, state = run(engine, inputs[:3])
        resident, copied = engine(inputs[3], state), engine(inputs[3], clone(state))
        assert equal(resident[0], copied[0]) and equal(resident[1], copied[1])


class TestOpenVino:
    @needs_openvino
    def test_what_was_compiled_is_kept(self, st_vgg, settings, monkeypatch):
        detector, inputs = st_vgg
        making = "snn_perception.engine.onnx_runtime.export_onnx"
        check_a_second_start_makes_nothing(partial(OpenVinoEngine, detector), settings, inputs, making, monkeypatch)
        assert list((settings.cache / "openvino").glob("*.blob"))

    @needs_openvino
    def test_int8_weights_flip_few_neurons(self, st_vgg, settings):
        """Spikes are exact in int8; the rounding of the weights decides about a few neurons near their threshold."""
        detector, inputs = st_vgg
        engine = OpenVinoEngine(detector, settings, precision="int8")
        layers = engine.sidecar.rounding["layers"]
        assert len(layers) == 22 and sum(layer["is_int8"] for layer in layers) >= 10
        parity = compare(engine, EagerEngine(detector), inputs)
        assert engine.precision == "int8" and 0 < parity.flips < 2e-3 and parity.membrane_error > 0

    @needs_openvino
    def test_bf16_where_the_processor_has_it(self, st_vgg, settings):
        detector, inputs = st_vgg
        if not has_bf16():
            with pytest.raises(ExportError, match="no bf16"):
                OpenVinoEngine(detector, settings, precision="bf16")
            return
        engine = OpenVinoEngine(detector, settings, precision="bf16")
        assert compare(engine, EagerEngine(detector), inputs[:12]).flips < 5e-3

    @needs_openvino
    def test_a_signal_finds_its_stack_after_engines_have_gone(self, tmp_path):
        """As after a swap of models: the first engine ends before the second, and then comes Ctrl-C."""
        script = """
import faulthandler, signal, sys
from pathlib import Path
from snn_perception import load_registry
from snn_perception.engine.engines import Settings
from snn_perception.engine.openvino import OpenVinoEngine
from tests.engine_support import ST_VGG, awake_preset, run

faulthandler.enable()  # gives signals a stack of their own
came = []
signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
detector, inputs = awake_preset(*ST_VGG, load_registry(environment=False))
first = OpenVinoEngine(detector, Settings(cache=Path(sys.argv[1])))
second = OpenVinoEngine(detector, Settings(cache=Path(sys.argv[1])))
run(first, inputs[:2]), run(second, inputs[:2])
del first
del second
signal.raise_signal(signal.SIGINT)
sys.exit(0 if came == [signal.SIGINT] else "no signal")
"""
        done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @needs_openvino
    def test_unknown_precisions_are_refused(self, st_vgg, settings):
        with pytest.raises(SpecError, match="precision"):
            OpenVinoEngine(st_vgg[0], settings, precision="fp4")

    @pytest.mark.parametrize("name", ["openvino", "tensorrt"])
    def test_a_missing_package_is_one_clear_error(self, name, tiny, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ExportError, match=f"pip install {name}"):
            build_engine(name, tiny[0])


class TestAuto:
    CANDIDATES = ("cudagraph", "native", "detector")

    def test_the_fastest_is_kept_for_the_next_start(self, tiny, tmp_path, monkeypatch, caplog):
        detector, inputs = tiny
        told = []
        settings = Settings(cache=tmp_path, on_stage=told.append)
        with caplog.at_level("INFO", logger=auto.__name__):
            first = fastest_engine(detector, settings, self.CANDIDATES)
        assert any("timing" in text for text in told)
        assert "cudagraph: left out: the engine 'cudagraph' needs a model on a CUDA device" in caplog.text
        assert close(run(first, inputs[:3])[1], run(EagerEngine(detector), inputs[:3])[1])
        told.clear()
        built = []
        making = MAKERS[first.name]
        monkeypatch.setitem(MAKERS, first.name, lambda *given: built.append(first.name) or making(*given))
        monkeypatch.setattr(auto, "measure", lambda *given, **more: pytest.fail("timed again"))
        again = fastest_engine(detector, settings, self.CANDIDATES)
        assert again.name == first.name and built == [first.name] and told == []

    def test_other_threads_are_another_choice(self, tiny, tmp_path):
        for threads in (1, 2):
            fastest_engine(tiny[0], Settings(cache=tmp_path, threads=threads), ("detector",))
        assert len(list(tmp_path.glob("*.auto.json"))) == 2

    def test_a_damaged_choice_is_made_again(self, tiny, tmp_path):
        settings = Settings(cache=tmp_path)
        fastest_engine(tiny[0], settings, ("detector",))
        (path,) = tmp_path.glob("*.auto.json")
        path.write_text('{"engine": "gone"}')
        assert fastest_engine(tiny[0], settings, ("detector",)).name == "detector"
        assert '"detector"' in path.read_text()

    def test_the_median_decides(self):
        timings = {"a": Times([9.0, 5.0, 4.0], [2.0, 2.0, 9.0]), "b": Times([3.0], [2.5])}
        assert choose(timings, by_wall=False) == "a" and choose(timings, by_wall=True) == "b"

    def test_a_fast_engine_with_other_numbers_is_no_choice(self, tiny, tmp_path, monkeypatch, caplog):
        class Forgetful(DetectorEngine):
            def __call__(self, x, state=None, keep=None, active=None):
                return super().__call__(x, None, keep, active)

        monkeypatch.setitem(MAKERS, "native", lambda detector, settings: Forgetful(detector, "native"))
        engine = fastest_engine(tiny[0], Settings(cache=tmp_path), ("native", "detector"))
        assert engine.name == "detector" and "native: left out" in caplog.text

    def test_it_is_one_of_the_engines_and_none_to_compare(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(auto, "CANDIDATES", {"cpu": ("detector",), "cuda": ()})
        assert build_engine("auto", tiny[0], Settings(cache=tmp_path)).name == "detector"
        names = available(tiny[0])
        assert "auto" not in names and "cudagraph" not in names and {"eager", "compile"} <= set(names)


class TestTensorRt:
    def test_it_needs_a_gpu(self, tiny, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", object())
        with pytest.raises(ExportError, match="needs a model on a CUDA device"):
            build_engine("tensorrt", tiny[0])

    def test_a_step_never_reads_and_writes_one_address(self):
        memory = Memory.of([StateTensor("backbone.0", (3, 2), None)], 2, torch.device("cpu"))
        memory.load([torch.full((2, 3, 2), 4.0)])
        assert memory.now[0].data_ptr() != memory.next[0].data_ptr()
        read = memory.now[0]
        torch.mul(read, 0.5, out=memory.next[0])
        memory.turn()
        assert memory.next[0] is read and (memory.now[0] == 2.0).all() and (read == 4.0).all()

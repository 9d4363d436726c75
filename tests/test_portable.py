"""An exported model without torch: the same detections, in a process that never loads it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from snn_perception import DetectionPipeline, build_preset
from snn_perception.engine.engines import Settings
from snn_perception.engine.export import export_onnx
from snn_perception.engine.onnx_runtime import OnnxRuntimeEngine
from snn_perception.engine.portable import PortableDetector
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.errors import EventDataError, ExportError
from snn_perception.runtime.stream import StreamState
from snn_perception.testing import event_window, wake
from snn_perception.types import SensorSize

for name in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(name, reason="the extra 'onnx' is not installed")

PROGRAM = """
import json, sys
import numpy as np
from snn_perception.engine.portable import PortableDetector
from snn_perception.types import EventArray, EventWindow
detector, told, state = PortableDetector(sys.argv[1]), [], None
size = detector.sidecar.sensor
for k in range(4):
    rng = np.random.default_rng(k)
    t = np.sort(rng.integers(0, 50_000, 2000)) + k * 50_000
    x, y, p = (rng.integers(0, n, 2000) for n in (size.width, size.height, 2))
    events = EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, size)
    found, state = detector.step(EventWindow(events, k * 50_000, (k + 1) * 50_000), state)
    told.append([found.xyxy.tolist(), found.score.tolist(), found.class_id.tolist(), found.t_us])
print(json.dumps({"torch": "torch" in sys.modules, "told": told}))
"""


@pytest.fixture(scope="module")
def detector(registry):
    detector = build_preset("st_vgg_ssd_16", registry=registry, height=64, width=96)
    wake(detector, synthetic_inputs(detector, 6))
    return detector


@pytest.fixture(scope="module")
def graph(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_onnx(detector, path)
    return path


def test_a_process_without_torch_detects_the_same(graph):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(graph)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["torch"] is False
    assert all(len(boxes) > 5 for boxes, *_ in found["told"])


def test_windows_give_what_the_pipeline_gives(graph, detector):
    portable, stream, membranes = PortableDetector(graph), StreamState(), None
    pipeline = DetectionPipeline(detector, engine=OnnxRuntimeEngine(detector, Settings(graph=graph)))
    for k in range(6):
        window = event_window(detector.spec.sensor_size, count=2_000, t_start_us=k * 50_000, seed=k)
        ours, membranes = portable.step(window, membranes)
        theirs, stream = pipeline.step(window, stream)
        assert len(ours) == len(theirs) > 5 and ours.t_us == theirs.t_us
        assert np.allclose(ours.score, theirs.score, atol=1e-5)
        assert np.allclose(in_order(ours), in_order(theirs), atol=1e-2)


def in_order(found):
    """Return rows of class, score and box, sorted: scores that rounding makes equal come in either order."""
    rows = np.concatenate([found.class_id[:, None], found.score[:, None].round(3), found.xyxy.round(1)], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


def test_another_sensor_is_refused(graph):
    with pytest.raises(EventDataError, match="96x64"):
        PortableDetector(graph).step(event_window(SensorSize(32, 48)))


def test_a_model_whose_input_needs_torch_is_refused(graph, tmp_path):
    from snn_perception.engine.artifact import sidecar_path

    path = tmp_path / "m.onnx"
    path.write_bytes(graph.read_bytes())
    values = json.loads(sidecar_path(graph).read_text())
    values["model"]["representation"] = {"name": "ternary_image", "options": {}, "version": 1}
    sidecar_path(path).write_text(json.dumps(values))
    with pytest.raises(ExportError, match="needs torch"):
        PortableDetector(path)

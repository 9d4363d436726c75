"""A thousand windows that follow one another, by every engine of this machine, for every family.

Each window starts from the plain network's own state: what an engine adds to it is then its own rounding, not that of
the windows before. Detections are compared window by window.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from snn_perception import build_preset, native
from snn_perception.engine.choose import build_engine
from snn_perception.engine.engines import EagerEngine, Settings
from snn_perception.engine.export import example_input
from snn_perception.engine.parity import ParityMeter
from snn_perception.state import named_leaves
from snn_perception.testing import FiringMeter, spiking_layers, wake

WINDOWS = 1000
SIZES = {
    "st_vgg_ssd_16": {"height": 64, "width": 96},
    "rescat_ssd_16": {"height": 64, "width": 96},
    "eas_snn_s_use_spike": {"network_size": [32, 64], "width_factor": 0.125},
    "spikeyolo_s_gen1": {"network_size": [32, 64], "width_factor": 0.125},
}
HAS_ONNX = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
ENGINES = [
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason=str(native.why_not()))),
    pytest.param("onnxruntime", marks=pytest.mark.skipif(not HAS_ONNX, reason="the extra 'onnx' is not installed")),
]


def pairs(a, b):
    return [(x.numpy(), y.numpy()) for (_, x), (_, y) in zip(named_leaves(a), named_leaves(b), strict=True)]


def in_order(found):
    rows = np.concatenate([found.class_id[:, None], found.score[:, None].round(3), found.xyxy.round(0)], axis=1)
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", SIZES)
def test_a_thousand_carried_windows(preset, engine, registry, tmp_path):
    torch.set_num_threads(1)
    detector = build_preset(preset, registry=registry, **SIZES[preset])
    inputs = [example_input(detector, rows=1, seed=seed) for seed in range(50)]
    wake(detector, inputs[:6])
    with torch.no_grad(), FiringMeter(spiking_layers(detector, inputs[0])) as rates:
        detector(inputs[7])
    assert min(rates.rates().values()) > 0
    other, plain = build_engine(engine, detector, Settings(cache=tmp_path)), EagerEngine(detector)
    meter, state, alike = ParityMeter(), None, 0
    for k in range(WINDOWS):
        x = inputs[k % 50].roll(k // 50, dims=-1)  # a thousand different ones
        (raw, after), (got_raw, got_after) = plain(x, state), other(x, state)
        meter.add(pairs(after, got_after), pairs(raw, got_raw))
        a, b = (in_order(detector.decode(one)[0]) for one in (raw, got_raw))
        alike += len(a) == len(b) and np.allclose(a, b, atol=1.0)
        state = after
    parity = meter.parity()
    assert parity.windows == WINDOWS and parity.flips <= 1e-6 and parity.membrane_error <= 1e-5
    assert parity.clean >= 0.95 * WINDOWS and parity.raw_error < 1e-3
    assert alike >= 0.98 * WINDOWS

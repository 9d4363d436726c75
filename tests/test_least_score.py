"""Low scores left out before suppression: what is left is what would have been left anyway, number for number."""

import numpy as np
import pytest
import torch

from snn_perception import DetectionPipeline, build_preset
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.runtime.stream import StreamState
from snn_perception.testing import event_window, wake

MODELS = {
    "st_vgg_ssd_16": {"height": 64, "width": 96},
    "eas_snn_s_use_spike": {"network_size": [64, 96]},
    "spikeyolo_s_gen1": {"network_size": [64, 96]},
}


@pytest.mark.parametrize("preset", MODELS)
def test_detections_above_the_least_score_are_the_same(preset, registry):
    detector = build_preset(preset, registry=registry, **MODELS[preset])
    x = synthetic_inputs(detector, 4)
    wake(detector, x[:3])
    with torch.no_grad():
        raw, _ = detector(x[1], None)
        (every,) = detector.decode(raw)
        scores = np.unique(every.score)
        least = float(scores[len(scores) // 2])  # one that occurs: at the edge
        (some,) = detector.decode(raw, least_score=least)
    wanted = every[: int(np.count_nonzero(every.score >= np.float32(least)))]
    some = some[: int(np.count_nonzero(some.score >= np.float32(least)))]
    assert 0 < len(wanted) < len(every) or len(scores) == 1
    for name in ("xyxy", "score", "class_id"):
        assert np.array_equal(getattr(some, name), getattr(wanted, name))


def test_the_pipeline_hands_its_threshold_down(registry, monkeypatch):
    detector = build_preset("st_vgg_ssd_16", registry=registry, height=64, width=96)
    wake(detector, synthetic_inputs(detector, 4))
    told, decode = [], detector.head.decode
    monkeypatch.setattr(
        detector.head, "decode", lambda raw, size, least=0.0: told.append(least) or decode(raw, size, least)
    )
    window = event_window(detector.spec.sensor_size, count=2_000)
    low, _ = DetectionPipeline(detector).step(window, StreamState())
    high, _ = DetectionPipeline(detector, score_threshold=0.9).step(window, StreamState())
    assert told == [0.0, 0.9]
    kept = int(np.count_nonzero(low.score >= 0.9))
    assert 0 < len(high) == kept and np.array_equal(high.xyxy, low.xyxy[:kept])

"""After a hot swap the camera's windows come with the new model's grids, and one that joins then does too."""

import pytest
from rclpy.parameter import Parameter
from vision_msgs.msg import Detection2DArray

from snn_perception import build_preset
from snn_perception.checkpoint import save_checkpoint
from snn_perception.runtime.waking import wake_on_recording
from tests.ros.test_detector_node import packets, play


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory, registry, shapes_dat):
    path = tmp_path_factory.mktemp("models") / "other.safetensors"
    detector = build_preset("st_vgg_ssd_16", registry=registry, seed=1)
    assert min(wake_on_recording(detector, shapes_dat, registry, windows=6).values()) > 0
    save_checkpoint(path, detector)
    return path


def test_no_event_is_mapped_twice_once_the_new_model_serves(bench, other_checkpoint):
    b = bench(swap_warm_ms=100, cameras=["left"])
    found = b.listen(Detection2DArray, "left/detections")
    b.listen(Detection2DArray, "right/detections")
    b.start()
    left, messages = b.publisher("left/events"), packets(2_000_000)
    play(b, left, messages[:45])
    assert b.detector.set_parameters([Parameter("checkpoint", value=str(other_checkpoint))])[0].successful
    sent = 45
    while b.detector._model.checkpoint != str(other_checkpoint):  # it is loaded, and then follows two windows
        play(b, left, messages[sent : sent + 10])
        sent += 10
        b.spin(0.1)
        assert sent < 250, "it did not take over"
    camera = b.detector._cameras["left"]
    b.spin_until(lambda: len(found) == camera.figures.published == camera.packets.windower.windows)
    filled, before = record_filled(b.detector._model.pipeline), len(found)
    assert b.detector.set_parameters([Parameter("cameras", value=["left", "right"])])[0].successful
    play(b, left, messages[sent : sent + 105])
    play(b, b.publisher("right/events"), packets(325_000, seed=8))
    b.spin_until(lambda: len(found) >= before + 10 and b.detector._cameras["right"].figures.published >= 6)
    assert filled.count(("right", True)) >= 6 and ("right", False) not in filled
    of_left = [is_filled for camera, is_filled in filled if camera == "left"]
    assert len(of_left) >= 10 and all(of_left[1:]), "only the window that was open at the swap is mapped again"
    assert any(msg.detections for msg in found[before:])


def record_filled(pipeline):
    """Return a list of each window's camera, and whether the model found its own grid in it."""
    seen, is_filled = [], pipeline._inputs.is_filled

    def look(window, mapping):
        seen.append((window.stream, is_filled(window, mapping)))
        return seen[-1][1]

    pipeline._inputs.is_filled = look
    return seen

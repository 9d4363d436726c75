"""Under `block` a camera waits for room in its queue: it alone, while the node answers and other cameras go on."""

from vision_msgs.msg import Detection2DArray

from tests.ros.test_detector_node import packets, play
from tests.ros.test_node_memory import call, held

WINDOWS = 6  # of 50 ms, each of ten packets


def test_a_full_queue_holds_up_its_own_camera_and_nothing_else(bench):
    b = bench(cameras=["left", "right"], overload_policy="block", queue_size=1)
    found = {name: b.listen(Detection2DArray, f"{name}/detections") for name in ("left", "right")}
    b.start()
    release = held(b)
    sent = packets(50_000 * WINDOWS)
    play(b, b.publisher("left/events"), sent)
    left, right = (b.detector._cameras[name] for name in ("left", "right"))
    b.spin_until(lambda: len(b.detector._queue) == 1)
    b.spin(0.2)
    stuck_at = left.received()["packets"]
    assert stuck_at < len(sent), "one window is at work, one is in line, and the next one waits for room"

    play(b, b.publisher("right/events"), sent[:15])
    b.spin_until(lambda: right.received()["packets"] == 15)
    assert call(b, "reset_state").success
    assert left.received()["packets"] == stuck_at

    release.set()
    b.spin_until(lambda: len(found["left"]) >= WINDOWS - 1 and len(found["right"]) >= 1)
    b.spin_until(lambda: left.received()["packets"] == len(sent))
    assert left.figures.dropped_windows == right.figures.dropped_windows == 0

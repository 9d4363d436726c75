"""A node for the small network: its parameters, and its packets as messages."""

from snn_perception.ros.messages import event_packet_from
from tests.small_network import PACKET_US, small_packets

SETTINGS = {
    "score_threshold": 0.0,
    "max_detections": 10,
    "stamp_source": "sensor",
    "overload_policy": "block",
    "qos_reliability": "reliable",
    "qos_depth": 0,
    "diagnostics_period_s": 0.1,
}


def small_messages(windows, seed=3, interval_us=PACKET_US):
    return [event_packet_from(packet) for packet in small_packets(windows, seed, interval_us)]

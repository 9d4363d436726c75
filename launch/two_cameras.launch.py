"""Start one detector node for two cameras: they share the weights, each has a membrane state of its own.

ros2 launch snn_perception two_cameras.launch.py checkpoint:=model.safetensors \\
    left_events:=/event_cam_0/events right_events:=/event_cam_1/events
"""

from launch import LaunchDescription
from snn_perception.ros.launching import TWO_CAMERA_ARGUMENTS, declare_arguments, two_camera_actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declare_arguments(TWO_CAMERA_ARGUMENTS), *two_camera_actions()])

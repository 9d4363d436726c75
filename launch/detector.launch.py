"""Start the detector node, configured and active.

ros2 launch snn_perception detector.launch.py checkpoint:=model.safetensors events:=/event_camera/events
ros2 launch snn_perception detector.launch.py checkpoint:=model.safetensors input_type:=image image:=/camera/image_raw
"""

from launch import LaunchDescription
from snn_perception.ros.launching import DETECTOR_ARGUMENTS, declare_arguments, detector_actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declare_arguments(DETECTOR_ARGUMENTS), *detector_actions()])

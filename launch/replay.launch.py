"""Play a recording or bag to the detector node, as the camera would have.

ros2 launch snn_perception replay.launch.py checkpoint:=model.safetensors recording:=drive.dat rate:=1.0
ros2 launch snn_perception replay.launch.py checkpoint:=model.safetensors recording:=bag topic:=/cam/events loop:=true
"""

from launch import LaunchDescription
from snn_perception.ros.launching import (
    DETECTOR_ARGUMENTS,
    PLAYER_ARGUMENTS,
    declare_arguments,
    detector_actions,
    player_actions,
)


def generate_launch_description() -> LaunchDescription:
    arguments = declare_arguments({**DETECTOR_ARGUMENTS, **PLAYER_ARGUMENTS})
    return LaunchDescription([*arguments, *detector_actions(), *player_actions()])

"""What the launch files start: arguments and node parameters as plain data, and the launch actions made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# name: (default, description). What is empty is not passed on: the parameter file, or the node's default, holds.
DETECTOR_ARGUMENTS = {
    "checkpoint": ("", "path of the model, a .safetensors checkpoint"),
    "input_type": ("", "event_packet, pointcloud2 or image"),
    "events": ("/event_camera/events", "topic of the event packets"),
    "image": ("/camera/image_raw", "topic of the images, for input_type:=image"),
    "detections": ("detections", "topic of the detections"),
    "namespace": ("", "namespace of the node"),
    "device": ("", "cpu, cuda, cuda:1 ..."),
    "score_threshold": ("", "detections below it are not published"),
    "params_file": ("", "YAML file of parameters; the package's detector.yaml where empty"),
    "autostart": ("true", "configure and activate at once"),
}
OVERRIDES = ("checkpoint", "input_type", "device", "score_threshold", "autostart")
PLAYER_ARGUMENTS = {
    "recording": ("", "recording or bag to play"),
    "rate": ("1.0", "1.0 is real time, 0 as fast as it goes"),
    "loop": ("false", "start again at the end"),
    "topic": ("", "topic of a bag that has several of events or images"),
}
# One process, one model, a camera each side. The default topics are those of two drivers, each with a node name.
SIDES = ("left", "right")
TWO_CAMERA_ARGUMENTS = {
    **{
        name: DETECTOR_ARGUMENTS[name]
        for name in ("checkpoint", "namespace", "device", "score_threshold", "params_file", "autostart")
    },
    "left_events": ("/event_cam_0/events", "topic of the left camera's event packets"),
    "right_events": ("/event_cam_1/events", "topic of the right camera's event packets"),
    "left_detections": ("left/detections", "topic of the detections in the left camera"),
    "right_detections": ("right/detections", "topic of the detections in the right camera"),
}


def detector_node(values: Mapping[str, Any], default_params_file: str) -> dict[str, Any]:
    """Return the keyword arguments of the detector's launch node for argument `values` (texts or substitutions)."""
    return {
        "package": "snn_perception",
        "executable": "detector_node",
        "name": "detector",
        "namespace": values["namespace"],
        "output": "screen",
        "parameters": [
            values["params_file"] or default_params_file,
            {name: values[name] for name in OVERRIDES if values[name] != ""},
        ],
        "remappings": [(name, values[name]) for name in ("events", "image", "detections")],
    }


def two_camera_node(values: Mapping[str, Any], default_params_file: str) -> dict[str, Any]:
    """Return the keyword arguments of a launch node with a left and a right camera for argument `values`."""
    unused = dict.fromkeys(("input_type", "events", "image", "detections"), "")
    node = detector_node({**values, **unused}, default_params_file)
    node["parameters"][-1]["cameras"] = list(SIDES)
    leaves = ("events", "detections")
    node["remappings"] = [(f"{side}/{leaf}", values[f"{side}_{leaf}"]) for side in SIDES for leaf in leaves]
    return node


def player_node(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the player's launch node for argument `values`."""
    return {
        "package": "snn_perception",
        "executable": "player_node",
        "name": "player",
        "namespace": values["namespace"],
        "output": "screen",
        "parameters": [{name: values[name] for name in PLAYER_ARGUMENTS if values[name] != ""}],
        "remappings": [(name, values[name]) for name in ("events", "image")],
    }


def default_params_file() -> str:
    """Return the installed `detector.yaml`."""
    from ament_index_python.packages import get_package_share_directory

    return str(Path(get_package_share_directory("snn_perception")) / "launch" / "detector.yaml")


def declare_arguments(arguments: Mapping[str, tuple[str, str]]) -> list[Any]:
    """Return the launch actions that declare `arguments`."""
    from launch.actions import DeclareLaunchArgument

    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]


def detector_actions() -> list[Any]:
    """Return the launch actions that start the detector; it configures and activates itself (`autostart`)."""
    from launch.actions import OpaqueFunction

    return [OpaqueFunction(function=lambda context: [_lifecycle_node(context)])]


def two_camera_actions() -> list[Any]:
    """Return the launch actions that start the detector with two cameras."""
    from launch.actions import OpaqueFunction

    return [OpaqueFunction(function=lambda context: [_two_camera_node(context)])]


def player_actions() -> list[Any]:
    """Return the launch actions that start the player."""
    from launch.actions import OpaqueFunction

    return [OpaqueFunction(function=lambda context: [_player(context)])]


def typed(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the argument texts with numbers and booleans as such, since node parameters are typed."""
    typed: dict[str, Any] = dict(values)
    for name in ("score_threshold", "rate"):
        if typed.get(name):
            typed[name] = float(typed[name])
    for name in ("autostart", "loop"):
        if name in typed:
            typed[name] = str(typed[name]).lower() in ("true", "1", "yes")
    return typed


def _lifecycle_node(context: Any) -> Any:
    from launch_ros.actions import LifecycleNode

    return LifecycleNode(**detector_node(typed(context.launch_configurations), default_params_file()))


def _two_camera_node(context: Any) -> Any:
    from launch_ros.actions import LifecycleNode

    return LifecycleNode(**two_camera_node(typed(context.launch_configurations), default_params_file()))


def _player(context: Any) -> Any:
    from launch_ros.actions import Node

    return Node(**player_node(typed(context.launch_configurations)))

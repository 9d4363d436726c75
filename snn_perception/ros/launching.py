"""What the launch files start: arguments and node parameters as plain data, and the launch actions made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# name: (default, description). What is empty is not passed on: the parameter file, or the node's default, holds.
DETECTOR_ARGUMENTS = {
    "checkpoint": ("", "path of the model, a .safetensors checkpoint"),
    "events": ("/event_camera/events", "topic of the event packets"),
    "detections": ("detections", "topic of the detections"),
    "namespace": ("", "namespace of the node"),
    "device": ("", "cpu, cuda, cuda:1 ..."),
    "score_threshold": ("", "detections below it are not published"),
    "params_file": ("", "YAML file of parameters; the package's detector.yaml where empty"),
    "autostart": ("true", "configure and activate at once"),
}
OVERRIDES = ("checkpoint", "device", "score_threshold", "autostart")
PLAYER_ARGUMENTS = {
    "recording": ("", "recording or bag to play"),
    "rate": ("1.0", "1.0 is real time, 0 as fast as it goes"),
    "loop": ("false", "start again at the end"),
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
        "remappings": [("events", values["events"]), ("detections", values["detections"])],
    }


def player_node(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the player's launch node for argument `values`."""
    return {
        "package": "snn_perception",
        "executable": "player_node",
        "name": "player",
        "namespace": values["namespace"],
        "output": "screen",
        "parameters": [{name: values[name] for name in PLAYER_ARGUMENTS}],
        "remappings": [("events", values["events"])],
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


def _player(context: Any) -> Any:
    from launch_ros.actions import Node

    return Node(**player_node(typed(context.launch_configurations)))

"""The detector node's parameters: names, defaults, ranges, and when each may change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from snn_perception.errors import SnnPerceptionError
from snn_perception.events.geometry import MODES


class Change(Enum):
    """When a parameter may change."""

    NEVER = "fixed at start-up"
    UNCONFIGURED = "only while the node is unconfigured"
    ALWAYS = "at any time"


@dataclass(frozen=True)
class Setting:
    """One parameter: its default (which gives the type), what it means, what is allowed, and when it may change."""

    name: str
    default: Any
    text: str
    change: Change
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def refusal(self, value: Any) -> str:
        """Return why `value` is not among the choices; empty if it is, or if there are none."""
        if not self.choices or value in self.choices:
            return ""
        return f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}"

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor."""
        constraints = f"one of: {', '.join(self.choices)}" if self.choices else ""
        descriptor = ParameterDescriptor(
            description=f"{self.text} ({self.change.value})",
            additional_constraints=constraints,
            read_only=self.change is Change.NEVER,
        )
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
        return descriptor


NEVER, UNCONFIGURED, ALWAYS = Change.NEVER, Change.UNCONFIGURED, Change.ALWAYS

SETTINGS = (
    Setting("checkpoint", "", "the model: path of a checkpoint, or name of shipped weights", UNCONFIGURED),
    Setting("device", "cpu", "where to run: cpu, cuda, cuda:1 ...", UNCONFIGURED),
    Setting("threads", 1, "CPU threads of the network; more than one may be slower", UNCONFIGURED, 1, 256),
    Setting("plugin_paths", [""], "plugins to load: .py files, package folders or modules", UNCONFIGURED),
    Setting("cameras", [""], "camera names, for topics <camera>/events; empty: events", NEVER),
    Setting("input_type", "event_packet", "type of the input topic", NEVER, choices=("event_packet", "pointcloud2")),
    Setting("sensor_width", 0, "sensor width in px where messages state none (pointcloud2)", UNCONFIGURED, 0, 16384),
    Setting("sensor_height", 0, "sensor height in px where messages state none (pointcloud2)", UNCONFIGURED, 0, 16384),
    Setting("qos_depth", 1000, "subscription depth in messages; 0 keeps all", NEVER, 0, 100_000),
    Setting(
        "qos_reliability",
        "best_effort",
        "best_effort hears every publisher, reliable only reliable ones",
        NEVER,
        choices=("best_effort", "reliable"),
    ),
    Setting("queue_size", 8, "windows that may wait for inference, per camera", UNCONFIGURED, 1, 10_000),
    Setting(
        "overload_policy",
        "drop_oldest",
        "when the queue is full: drop its oldest window, or let the subscription wait",
        UNCONFIGURED,
        choices=("drop_oldest", "block"),
    ),
    Setting("max_gap_ms", 1000, "a longer interruption puts the membranes to rest", UNCONFIGURED, 100, 86_400_000),
    Setting("drop_duplicates", False, "leave out events that are equal to another", UNCONFIGURED),
    Setting("geometry", "scale", "what to do with another sensor size than the model's", UNCONFIGURED, choices=MODES),
    Setting(
        "stamp_source",
        "header",
        "stamps of detections: the packets' host clock, or the sensor's own time",
        UNCONFIGURED,
        choices=("header", "sensor"),
    ),
    Setting("score_threshold", 0.3, "detections below it are not published", ALWAYS, 0.0, 1.0),
    Setting("max_detections", 100, "at most so many detections per window", ALWAYS, 1, 10_000),
    Setting("class_id_format", "number", "class_id as number or as name", ALWAYS, choices=("number", "name")),
    Setting("silence_warning_s", 2.0, "warn when no packet came for so long", UNCONFIGURED, 0.1, 3600.0),
    Setting("diagnostics_period_s", 1.0, "period of /diagnostics", UNCONFIGURED, 0.1, 60.0),
    Setting("autostart", False, "configure and activate at start-up without a lifecycle manager", NEVER),
)
FROM_CHECKPOINT = "it comes from the checkpoint"
BY_NAME = {setting.name: setting for setting in SETTINGS}


def declare(node: Node) -> None:
    """Declare every setting on the node, with its descriptor."""
    for setting in SETTINGS:
        node.declare_parameter(setting.name, setting.default, setting.descriptor())


def usage(program: str) -> str:
    """Return help for the command line: how parameters are given, and every one with its default."""
    lines = [f"usage: {program} --ros-args -p NAME:=VALUE ... [-r events:=/camera/events]", "", "parameters:"]
    for setting in SETTINGS:
        allowed = f", one of {', '.join(setting.choices)}" if setting.choices else ""
        default = "" if setting.default in ("", [""]) else f", default {setting.default}"
        lines += [f"  {setting.name}", f"      {setting.text}{allowed}{default} ({setting.change.value})"]
    return "\n".join(lines)


def read(node: Node) -> dict[str, Any]:
    """Return the value of every setting; lists come without empty texts, which stand for an empty list.

    (An empty list as a default would not tell ROS the type of its items.)

    Raises:
        SnnPerceptionError: for a value that is not among the choices, or a camera named twice.
    """
    values = {setting.name: node.get_parameter(setting.name).value for setting in SETTINGS}
    for setting in SETTINGS:  # values given at start-up have not been through `check`
        if reason := setting.refusal(values[setting.name]):
            raise SnnPerceptionError(reason)
    values = {name: [v for v in value if v] if isinstance(value, list) else value for name, value in values.items()}
    if len(set(values["cameras"])) < len(values["cameras"]):
        raise SnnPerceptionError(f"cameras must have distinct names, got {values['cameras']}")
    return values


def check(changes: Iterable[Parameter], *, unconfigured: bool, model_fixed: bool) -> SetParametersResult:
    """Return whether all of `changes` may be made now, or the first reason why not.

    What the checkpoint says (``model.*``) is fixed once it is declared. ROS's own read-only flag would fix it for ever,
    although the next configuration may load another model.
    """
    for change in changes:
        if model_fixed and change.name.startswith("model."):
            return SetParametersResult(successful=False, reason=f"{change.name} is read-only: {FROM_CHECKPOINT}")
        setting = BY_NAME.get(change.name)
        if setting is None:
            continue
        if setting.change is Change.UNCONFIGURED and not unconfigured:
            reason = f"{change.name} can change {Change.UNCONFIGURED.value}; clean the node up first"
            return SetParametersResult(successful=False, reason=reason)
        if reason := setting.refusal(change.value):
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)

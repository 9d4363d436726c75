"""The detector node's parameters: names, defaults, ranges, and when each may change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from snn_perception.errors import SnnPerceptionError
from snn_perception.events.geometry import MODES
from snn_perception.runtime.rates import RATE_MODES
from snn_perception.runtime.wanted import AS_MODEL
from snn_perception.spec import ModelSpec

MODEL = ("model.classes", "model.window_us", "model.sensor_size", "model.representation", "model.state_policy")


class Change(Enum):
    """When a parameter may change."""

    NEVER = "fixed at start-up"
    UNCONFIGURED = "only while the node is unconfigured"
    ALWAYS = "at any time"


@dataclass(frozen=True)
class Setting:
    """One parameter: its default (which gives the type), what it means, what is allowed, and when it may change.

    Attributes:
        low, high: bounds of a number. besides: a number outside of them that is allowed too.
    """

    name: str
    default: Any
    text: str
    change: Change
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    besides: float | None = None

    def refusal(self, value: Any) -> str:
        """Return why ROS, which checks types and ranges, should not take `value` either; empty if it may."""
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}"
        if self.besides not in (None, value) and self.low is not None and not self.low <= value:
            return f"{self.name} must be within {self.low:g}..{self.high:g}, or {self.besides:g}, got {value:g}"
        return ""

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor."""
        constraints = f"one of: {', '.join(self.choices)}" if self.choices else ""
        if self.besides is not None:
            constraints = f"{self.besides:g}, or {self.low:g}..{self.high:g}"
        descriptor = ParameterDescriptor(
            description=f"{self.text} ({self.change.value})",
            additional_constraints=constraints,
            read_only=self.change is Change.NEVER,
        )
        if self.low is not None and self.high is not None:
            low = self.low if self.besides is None else min(self.low, self.besides)
            if isinstance(self.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=self.high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(self.high))]
        return descriptor


NEVER, UNCONFIGURED, ALWAYS = Change.NEVER, Change.UNCONFIGURED, Change.ALWAYS

SETTINGS = (
    Setting(
        "checkpoint",
        "",
        "the model: path of a checkpoint, or name of shipped weights; while active: another one, which takes over",
        ALWAYS,
    ),
    Setting("device", "cpu", "where to run: cpu, cuda, cuda:1 ...", UNCONFIGURED),
    Setting(
        "engine",
        "detector",
        "what runs the network: detector as it is, native, onnxruntime, openvino, compile, cudagraph, tensorrt, eager, "
        "or auto, the fastest here",
        UNCONFIGURED,
    ),
    Setting("threads", 1, "CPU threads of the network; more than one may be slower", UNCONFIGURED, 1, 256),
    Setting("plugin_paths", [""], "plugins to load, which are code: .py files, package folders or modules", NEVER),
    Setting(
        "cameras",
        [""],
        "camera names, for topics <camera>/events (or image); empty: events (or image). They may join and leave",
        ALWAYS,
    ),
    Setting(
        "input_type",
        "event_packet",
        "what comes in: events (topic events), or images (topic image) for a model that sees images",
        NEVER,
        choices=("event_packet", "pointcloud2", "image"),
    ),
    Setting("sensor_width", 0, "sensor width in px where messages state none (pointcloud2)", UNCONFIGURED, 0, 16384),
    Setting("sensor_height", 0, "sensor height in px where messages state none (pointcloud2)", UNCONFIGURED, 0, 16384),
    Setting("qos_depth", 1000, "subscription depth in messages of events; 0 keeps all", NEVER, 0, 100_000),
    Setting("image_qos_depth", 5, "subscription depth in images, which are large; 0 keeps all", NEVER, 0, 1000),
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
        "catch_up",
        "when windows wait: catch_up runs those that more than half a queue waits behind for their state alone, but "
        "every so often one in full, and drops the oldest of a full queue; drop_oldest does the latter alone; block "
        "lets the subscription wait",
        ALWAYS,
        choices=("catch_up", "drop_oldest", "block"),
    ),
    Setting(
        "max_age_ms",
        0,
        "a window whose turn comes later than that is run for its state alone; 0: never",
        ALWAYS,
        0,
        600_000,
    ),
    Setting(
        "gap_policy",
        "hold",
        "what missing windows, up to max_gap_ms of them, do to membranes: nothing, leak for as long, or put to rest",
        ALWAYS,
        choices=("hold", "leak", "reset"),
    ),
    Setting("rate_times", 1, "detections so many times as often as windows; a divisor of the window", NEVER, 1, 64),
    Setting(
        "rate_mode",
        "phase_banks",
        "how: several states on shifted windows, or a look at the part of the next window that is there",
        NEVER,
        choices=RATE_MODES,
    ),
    Setting(
        "batch_cameras",
        1,
        "windows of so many cameras, one of each, may run as one batch, which a GPU does in little more time than one "
        "alone; 1: each by itself",
        ALWAYS,
        1,
        16,
    ),
    Setting(
        "batch_slack_ms",
        1.0,
        "so long after its end a window waits for those of other cameras that end at the same time (batch_cameras)",
        ALWAYS,
        0.0,
        1000.0,
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
    Setting(
        "nms_threshold",
        AS_MODEL,
        "a box is suppressed by a better one of its class at an IoU above it; -1: as the model says",
        ALWAYS,
        0.0,
        1.0,
        besides=AS_MODEL,
    ),
    Setting(
        "classes",
        [""],
        "classes to publish, by name or number, chosen after suppression; empty: all",
        ALWAYS,
    ),
    Setting(
        "deadline_ms",
        0.0,
        "detections are due so long after a window's end: models that may stop early take fewer network steps; 0: all",
        ALWAYS,
        0.0,
        60_000.0,
    ),
    Setting("class_id_format", "number", "class_id as number or as name", ALWAYS, choices=("number", "name")),
    Setting("swap_warm_ms", 1000, "sensor time that a model sees before it takes over", ALWAYS, 0, 600_000),
    Setting("keep_state", False, "membranes outlast a deactivation (see restore_max_gap_ms)", ALWAYS),
    Setting("state_dir", "", "folder for saved states; empty: none are saved", UNCONFIGURED),
    Setting(
        "snapshot_period_s", 1.0, "save states to state_dir so often; 0: only on request", UNCONFIGURED, 0.0, 3600.0
    ),
    Setting(
        "restore_max_gap_ms",
        10_000,
        "a saved state is taken up if the first window's stamp is at most so far from it; 0: never",
        UNCONFIGURED,
        0,
        86_400_000,
    ),
    Setting("journal", "", "file for what is decided live, to repeat the run offline; empty: none", UNCONFIGURED),
    Setting("silence_warning_s", 2.0, "warn when no packet came for so long", UNCONFIGURED, 0.1, 3600.0),
    Setting("diagnostics_period_s", 1.0, "period of /diagnostics", UNCONFIGURED, 0.1, 60.0),
    Setting(
        "max_allowed_processing_time_ms",
        0.0,
        "warn when the inference of a window took longer; 0: never",
        ALWAYS,
        0.0,
        600_000.0,
    ),
    Setting(
        "max_acceptable_consecutive_delay_ms",
        0.0,
        "error when no window came out in time for longer, also when none came out at all; 0: never",
        ALWAYS,
        0.0,
        3_600_000.0,
    ),
    Setting("debug_image_hz", 10.0, "most pictures per second on ~/debug_image; 0: none", ALWAYS, 0.0, 120.0),
    Setting(
        "activity_period_s",
        0.0,
        "report firing rates and operations per layer of one window so often; 0: never",
        ALWAYS,
        0.0,
        86_400.0,
    ),
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
    values = {name: without_blanks(value) for name, value in values.items()}
    check_cameras(values["cameras"])
    return values


def without_blanks(value: Any) -> Any:
    """Return a list of texts without the empty ones, any other value as it is."""
    return [one for one in value if one] if isinstance(value, Sequence) and not isinstance(value, str) else value


def check_cameras(names: Sequence[str]) -> None:
    """Raise SnnPerceptionError unless these names can be those of cameras side by side."""
    if len(set(names)) < len(names):
        raise SnnPerceptionError(f"cameras must have distinct names, got {list(names)}")
    for name in names:
        try:
            validate_topic_name(f"{name}/events")
        except InvalidTopicNameException as error:
            raise SnnPerceptionError(f"cameras: '{name}' is no name in ROS: {str(error).splitlines()[0]}") from None


def check_input_type(input_type: str, spec: ModelSpec, takes_images: bool) -> None:
    """Raise SnnPerceptionError where a model for images is to get events, or the other way round."""
    if takes_images == (input_type == "image"):
        return
    name = spec.representation.name
    sees, need = ("images", "image") if takes_images else ("events", "event_packet or pointcloud2")
    raise SnnPerceptionError(
        f"parameter 'input_type' is '{input_type}', and the checkpoint's model sees {sees} (representation '{name}'); "
        f"start the node with input_type:={need}, or choose another checkpoint"
    )


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


def of_model(spec: ModelSpec) -> dict[str, Any]:
    """Return the parameters that the checkpoint tells, by name (`MODEL`)."""
    size = [spec.sensor_size.width, spec.sensor_size.height]
    values = (list(spec.classes), spec.window_us, size, spec.representation.name, spec.state_policy)
    return dict(zip(MODEL, values, strict=True))

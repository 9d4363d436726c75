"""What a model is, as data: `ModelSpec` names its components and options, and turns to JSON and back.

A checkpoint holds the resolved spec (every option, defaults included, as they were when the model was built), so that
later changes of a default do not alter old weights.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from snn_perception.errors import SpecError
from snn_perception.types import SensorSize

SPEC_FORMAT = 1
StatePolicy = Literal["carry", "per_window"]
POLICIES: tuple[str, ...] = get_args(StatePolicy)
ROLES = ("representation", "neuron", "backbone", "head")


@dataclass(frozen=True)
class ComponentRef:
    """A component by name, with its options, and the version it had when the model was built (0: not built yet)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 0

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str), "component name", "text", self.name)
        named = isinstance(self.options, dict) and all(isinstance(option, str) for option in self.options)
        _require(named, f"options of '{self.name}'", "an object of named values", self.options)
        _require(_is_int(self.version) and self.version >= 0, f"version of '{self.name}'", "a count", self.version)


@dataclass(frozen=True)
class ModelSpec:
    """A detector as data.

    Attributes:
        representation, neuron, backbone, head: the components it is made of.
        classes: class names; a detection's class_id is an index into them.
        window_us: length of one window of sensor time.
        stride_us: distance between window ends, a part of `window_us`; equals it for models that carry state.
        sensor_size: size of the model's input in pixels.
        state_policy: ``carry`` passes membranes from window to window, ``per_window`` starts each from rest.

    Raises:
        SpecError: if a value is out of range or the parts contradict each other.
    """

    representation: ComponentRef
    neuron: ComponentRef
    backbone: ComponentRef
    head: ComponentRef
    classes: tuple[str, ...]
    window_us: int
    sensor_size: SensorSize
    state_policy: StatePolicy = "carry"
    stride_us: int = 0

    def __post_init__(self) -> None:
        for role in ROLES:
            _require(isinstance(getattr(self, role), ComponentRef), role, "a component", getattr(self, role))
        texts = isinstance(self.classes, tuple) and all(isinstance(name, str) for name in self.classes)
        _require(
            texts and bool(self.classes) and len(set(self.classes)) == len(self.classes),
            "classes",
            "distinct names, at least one",
            self.classes,
        )
        _require(isinstance(self.sensor_size, SensorSize), "sensor_size", "a SensorSize", self.sensor_size)
        _require(_is_int(self.window_us) and self.window_us > 0, "window_us", "positive microseconds", self.window_us)
        _require(self.state_policy in POLICIES, "state_policy", " or ".join(map(repr, POLICIES)), self.state_policy)
        if self.stride_us == 0:
            object.__setattr__(self, "stride_us", self.window_us)
        _require(_is_int(self.stride_us) and self.stride_us > 0, "stride_us", "positive microseconds", self.stride_us)
        if self.window_us % self.stride_us:
            raise SpecError(f"stride_us: must be a part of the window of {self.window_us}, got {self.stride_us}")
        if self.state_policy == "carry" and self.stride_us != self.window_us:
            raise SpecError(
                f"stride_us: a model that carries state needs {self.window_us}, as window_us, got {self.stride_us}"
            )

    def to_json(self) -> str:
        """Return the spec as one line of JSON with sorted keys.

        Raises:
            SpecError: if an option's value has no JSON form.
        """
        try:
            return json.dumps({"format": SPEC_FORMAT, **asdict(self)}, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpecError(f"model spec: options must be finite numbers, texts or lists of these: {error}") from None

    @staticmethod
    def from_json(text: str) -> ModelSpec:
        """Return the spec written by `to_json`.

        Raises:
            SpecError: for text that is not a spec, or a spec of a newer format.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"model spec: expected JSON, got {text[:40]!r}... ({error})") from None
        if not isinstance(values, dict):
            raise SpecError(f"model spec: expected a JSON object, got {type(values).__name__}")
        version = values.pop("format", None)
        if version != SPEC_FORMAT:
            raise SpecError(f"model spec: expected format {SPEC_FORMAT}, got {version!r}; a newer version may read it")
        try:
            _require_keys(ModelSpec, values, "model spec")
            for role in ROLES:
                values[role] = ComponentRef(**_require_keys(ComponentRef, values[role], role))
            _require(isinstance(values["classes"], list), "classes", "a list", values["classes"])
            values["classes"] = tuple(values["classes"])
            values["sensor_size"] = SensorSize(**_require_keys(SensorSize, values["sensor_size"], "sensor_size"))
            return ModelSpec(**values)
        except ValueError as error:
            raise SpecError(f"model spec: {error}") from None

    def hash(self) -> str:
        """Return 16 hex digits that change with any field; a saved state belongs to one such hash."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _require(fits: bool, name: str, wanted: str, got: object) -> None:
    if not fits:
        raise SpecError(f"{name}: expected {wanted}, got {reprlib.repr(got)}")


def _require_keys(kind: type[Any], values: object, where: str) -> dict[str, Any]:
    """Return `values` if it is an object with just the fields of dataclass `kind`; raise SpecError otherwise."""
    if not isinstance(values, dict):
        raise SpecError(f"{where}: expected a JSON object, got {type(values).__name__}")
    known = {f.name for f in fields(kind)}
    if values.keys() != known:
        unknown, missing = sorted(values.keys() - known), sorted(known - values.keys())
        raise SpecError(f"{where}: unknown keys {reprlib.repr(unknown)}, missing keys {missing}")
    return values


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

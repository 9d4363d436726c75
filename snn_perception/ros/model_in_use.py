"""The model that a node serves, as its parameters show it, and another that may take over from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from snn_perception.registry import Registry
from snn_perception.ros import parameters
from snn_perception.ros.jobs import SwapJob
from snn_perception.ros.loading import load_pipeline
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.refusing import Running
from snn_perception.ros.swapping import Swapping
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.spec import ModelSpec


class ModelInUse:
    """What a configured node serves.

    A swap begins and is called off in the executor's thread, and comes about in the inference thread; the executor
    brings the parameters up to date (`follow`).

    Args:
        settings: the node's parameters, which change under way.

    Attributes:
        pipeline: that serves. checkpoint: its name. registry: of the plugins.
        is_declared: whether the node's parameters tell of the model, so that nobody may set them.

    Raises:
        SnnPerceptionError: if the checkpoint cannot be loaded.
    """

    def __init__(self, node: LifecycleNode, settings: Mapping[str, Any], registry: Registry) -> None:
        self._node, self._settings, self.registry = node, settings, registry
        self.pipeline: DetectionPipeline = load_pipeline(settings, registry)
        self.checkpoint: str = settings["checkpoint"]
        self.is_declared = False
        self._is_new = False
        self._swapping: Swapping | None = None
        self._not_taken: str | None = None  # checkpoint that did not take over, until the parameter is set back

    def spec(self) -> ModelSpec:
        """Return the description of the model that serves."""
        return self.pipeline.spec

    def __str__(self) -> str:
        spec = self.spec()
        return (
            f"{spec.backbone.name}+{spec.head.name}, {len(spec.classes)} classes, {spec.sensor_size}, "
            f"windows of {spec.window_us / 1000:g} ms, state_policy {spec.state_policy}, on {self._settings['device']}"
        )

    def refusal(self, wanted: Mapping[str, Any], *, is_active: bool) -> str:
        """Return why the model does not agree to values of parameters; empty if it does."""
        return Running(self.pipeline, self.checkpoint, is_active).refusal(wanted, self._settings["classes"])

    def declare(self) -> None:
        """Declare as parameters what the checkpoint says, in place of what another one said."""
        self.is_declared = False
        for name, value in parameters.of_model(self.spec()).items():
            if self._node.has_parameter(name):
                self._node.undeclare_parameter(name)
            descriptor = ParameterDescriptor(description=parameters.FROM_CHECKPOINT)
            self._node.declare_parameter(name, value, descriptor, ignore_override=True)
        self.is_declared = True

    def undeclare(self) -> None:
        """Take those parameters back."""
        for name in parameters.MODEL:
            if self._node.has_parameter(name):
                self._node.undeclare_parameter(name)
        self.is_declared = False

    def begin_swap(self, queue: JobQueue, prepare: Callable[[DetectionPipeline], None]) -> None:
        """Load the checkpoint that is asked for, in place of one asked for before; none if it is in use.

        Args:
            queue: takes the model once it is there. prepare: called with it before.
        """
        self.call_off_swap()
        if self._settings["checkpoint"] == self.checkpoint:
            queue.put(SwapJob(None))
            return
        self._swapping = Swapping(self._settings, self.registry, self.spec(), queue, prepare, self.swap_failed)
        self._swapping.start()

    def call_off_swap(self) -> None:
        """Let nothing come of a model that is being loaded."""
        if self._swapping is not None:
            self._swapping.give_up()
            self._swapping = None

    def swapped(self, name: str, pipeline: DetectionPipeline) -> None:
        """Go on with a model that took over; in the inference thread."""
        before, self.pipeline, self.checkpoint = self.checkpoint, pipeline, name
        self._is_new = True  # the executor declares its parameters
        if self._settings["checkpoint"] == before:  # it was called off too late
            self._not_taken = before

    def swap_failed(self, name: str, error: Exception) -> None:
        """Say why a checkpoint does not take over; from any thread."""
        self._not_taken = name  # the executor sets the parameter back
        reason = " ".join(str(error).split()) or type(error).__name__
        self._node.get_logger().error(f"'{name}' cannot take over, '{self.checkpoint}' goes on: {reason}")

    def give_up_swap(self) -> None:
        """Say so if a checkpoint has not taken over by the end of an activation."""
        if (wanted := self._settings["checkpoint"]) != self.checkpoint:
            self._not_taken = wanted
            self._node.get_logger().warning(f"'{wanted}' has not taken over in time, '{self.checkpoint}' stays")

    def follow(self) -> bool:
        """Bring the parameters up to date with a model that took over, or did not; return whether one did."""
        if is_new := self._is_new:  # put back only then: the inference thread may set it at any moment
            self._is_new = False
            self.declare()
        not_taken, self._not_taken = self._not_taken, None
        if not_taken is not None and not_taken == self._settings["checkpoint"] != self.checkpoint:
            self._node.set_parameters([Parameter("checkpoint", value=self.checkpoint)])
        return is_new

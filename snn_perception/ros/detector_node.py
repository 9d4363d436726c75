"""The lifecycle node `detector`: event packets in, detections out, membrane state kept in between."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from snn_perception.checkpoint import load_checkpoint
from snn_perception.discovery import load_registry
from snn_perception.errors import SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.ros import parameters
from snn_perception.ros.camera import Camera
from snn_perception.ros.diagnostics import camera_status
from snn_perception.ros.logging import RosLogHandler
from snn_perception.ros.messages import ns_to_stamp, to_detection2d_array, to_label_info, to_vision_info
from snn_perception.ros.queue import JobQueue, ResetJob, WindowJob
from snn_perception.ros.running import run_node
from snn_perception.ros.worker import InferenceThread, WindowResult
from snn_perception.runtime.models import check_device
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.warmup import warm_up
from snn_perception.zoo import checkpoint_path, told

DRAIN_S = 30.0
HURRY_S = 2.0
log = logging.getLogger(__name__)
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
Result = TransitionCallbackReturn


class DetectorNode(LifecycleNode):
    """Configure loads the model, activate subscribes, deactivate finishes what is under way, cleanup frees.

    Topics (relative): ``events`` in; ``detections``, ``label_info``, ``vision_info`` (latched) out; with `cameras`,
    ``<camera>/events`` and ``<camera>/detections``. ``/diagnostics``; service ``~/reset_state``.
    """

    def __init__(self, name: str = "detector", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._settings: dict[str, Any] = {}
        self._model_declared = False
        self._budget_s = DRAIN_S  # for what is under way when the node is deactivated
        self._registry: Registry | None = None
        self._pipeline: DetectionPipeline | None = None
        self._queue: JobQueue | None = None
        self._worker: InferenceThread | None = None
        self._cameras: dict[str, Camera] = {}
        self._publishers_of: dict[str, Any] = {}
        self._configured: list[Any] = []  # what on_cleanup destroys, with the function that does
        self._reported: dict[str, dict[str, int]] = {}
        self._log_handler = RosLogHandler(self.get_logger())
        logging.getLogger("snn_perception").addHandler(self._log_handler)
        parameters.declare(self)  # last: a value that ROS refuses ends the construction here
        self.add_on_set_parameters_callback(self._on_set_parameters)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> Result:
        """Load the model and make the publishers; on failure the node stays unconfigured and says why."""
        try:
            self._settings = parameters.read(self)
            self._load()
            self._make_publishers()
        except Exception as error:  # rclpy would swallow it without a word
            self._refuse("configure", error)
            self._release()
            return Result.FAILURE
        assert self._pipeline is not None
        spec = self._pipeline.spec
        self.get_logger().info(
            f"configured: {spec.backbone.name}+{spec.head.name}, {len(spec.classes)} classes, {spec.sensor_size}, "
            f"windows of {spec.window_us / 1000:g} ms, state_policy {spec.state_policy}, on {self._settings['device']}"
        )
        return Result.SUCCESS

    def on_activate(self, state: LifecycleState) -> Result:
        """Start the inference thread, then listen; on failure the node stays inactive and says why."""
        if self._worker is not None and self._worker.is_running:
            self._refuse("activate", SnnPerceptionError("the last activation's inference is still at work; try later"))
            return Result.FAILURE
        try:
            self._start()
        except Exception as error:
            self._refuse("activate", error)
            self._stop(0.0)
            return Result.FAILURE
        topics = ", ".join(camera.topic for camera in self._cameras.values())
        self.get_logger().info(f"active, listening on {topics}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> Result:
        """Stop listening, publish what is under way (the last, partial window too), and drop the streams' states."""
        self._stop(self._budget_s)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Result:
        """Free the model and the publishers."""
        self._release()
        return Result.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> Result:
        """Stop and free everything, from any state."""
        self._stop(self._budget_s)
        self._release()
        return Result.SUCCESS

    def on_error(self, state: LifecycleState) -> Result:
        """Free everything, so that the node can be configured again."""
        self._stop(self._budget_s)
        self._release()
        return Result.SUCCESS

    def _refuse(self, transition: str, error: Exception) -> None:
        """Say in one line why a transition is not made."""
        known = isinstance(error, (SnnPerceptionError, OSError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        self.get_logger().error(f"cannot {transition}: {' '.join(reason.split())}")
        log.debug("cannot %s", transition, exc_info=error)

    def _start(self) -> None:
        assert self._pipeline is not None and self._registry is not None
        settings = self._settings
        self._queue = JobQueue(settings["queue_size"], settings["overload_policy"])
        self._worker = InferenceThread(self._pipeline, self._queue, self._on_result, self._on_failed_window)
        self._worker.start()
        for name in settings["cameras"] or [""]:
            self._cameras[name] = Camera(self, name, settings, self._registry, self._pipeline, self._queue)
        self._publish_label_info()
        self._publish_vision_info()

    def _load(self) -> None:
        settings = self._settings
        check_device(settings["device"])
        if not settings["checkpoint"]:
            raise SnnPerceptionError(
                "parameter 'checkpoint' is empty; set it to the path of a .safetensors checkpoint, or to the name of "
                f"weights that come with this package ({told()})"
            )
        torch.set_num_threads(settings["threads"])
        self._registry = load_registry(settings["plugin_paths"])
        detector = load_checkpoint(checkpoint_path(settings["checkpoint"]), registry=self._registry)
        self._pipeline = DetectionPipeline(
            detector,
            device=settings["device"],
            geometry=settings["geometry"],
            max_gap_us=settings["max_gap_ms"] * 1000,
            score_threshold=settings["score_threshold"],
            max_detections=settings["max_detections"],
        )
        warm_up(self._pipeline)

    def _make_publishers(self) -> None:
        assert self._pipeline is not None
        for camera in self._settings["cameras"] or [""]:
            topic = f"{camera}/detections" if camera else "detections"
            self._publishers_of[camera] = self.create_lifecycle_publisher(Detection2DArray, topic, 10)
            self._own(self._publishers_of[camera], self.destroy_lifecycle_publisher)
        self._label_info = self.create_publisher(LabelInfo, "label_info", LATCHED)
        self._vision_info = self.create_publisher(VisionInfo, "vision_info", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        for publisher in (self._label_info, self._vision_info, self._diagnostics):
            self._own(publisher, self.destroy_publisher)
        self._own(self.create_service(Trigger, "~/reset_state", self._on_reset_state), self.destroy_service)
        self._own(self.create_timer(self._settings["diagnostics_period_s"], self._on_diagnostics), self.destroy_timer)
        spec = self._pipeline.spec
        for name, value in (
            ("model.classes", list(spec.classes)),
            ("model.window_us", spec.window_us),
            ("model.sensor_size", [spec.sensor_size.width, spec.sensor_size.height]),
            ("model.representation", spec.representation.name),
            ("model.state_policy", spec.state_policy),
        ):
            descriptor = ParameterDescriptor(description=parameters.FROM_CHECKPOINT)
            self.declare_parameter(name, value, descriptor, ignore_override=True)
            self._own(name, self.undeclare_parameter)
        self._model_declared = True

    def _own(self, thing: Any, destroy: Any) -> None:
        self._configured.append((destroy, thing))

    def hurry(self, *, give_up: bool) -> None:
        """Let a deactivation to come take a moment only; with `give_up` nobody waits for room in the queue any more."""
        self._budget_s = HURRY_S
        if give_up and self._queue is not None:
            self._queue.close()

    def _stop(self, budget_s: float) -> None:
        """Stop listening, finish what is queued as far as `budget_s` allows, and forget the streams."""
        for camera in self._cameras.values():
            camera.destroy()
            camera.flush(budget_s)
        if self._worker is not None and (lost := self._worker.stop(budget_s)) is not None:
            self.get_logger().error(
                f"inference did not finish within {budget_s:g} s: {lost} window(s) and the one in hand are lost"
            )
        if self._worker is not None and not self._worker.is_running:
            self._worker = None
        self._cameras, self._queue, self._reported = {}, None, {}

    def _release(self) -> None:
        while self._configured:
            destroy, thing = self._configured.pop()
            destroy(thing)
        self._publishers_of, self._pipeline, self._registry = {}, None, None
        self._model_declared = False

    # Inference thread

    def _on_result(self, result: WindowResult) -> None:
        assert self._pipeline is not None
        job, figures = result.job, self._cameras[result.job.camera].figures
        header = Header(stamp=ns_to_stamp(job.stamp_ns), frame_id=job.frame_id)
        class_names = self._settings["class_id_format"] == "name"
        msg = to_detection2d_array(result.detections, header, self._pipeline.spec.classes, class_names=class_names)
        self._publishers_of[job.camera].publish(msg)
        figures.published += 1
        figures.detections += len(result.detections)
        figures.gaps, figures.resets = result.stream.gaps, result.stream.resets
        figures.inference_ns.append(result.inference_ns)
        figures.latency_ns.append(result.waited_ns + result.inference_ns)

    def _on_failed_window(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        camera = self._cameras[job.camera]
        what, then = (
            ("failed", "the camera goes on from rest") if in_step else ("was not published", "its state is kept")
        )
        if in_step:
            camera.figures.failed_windows += 1
        else:
            camera.figures.failed_messages += 1
        self.get_logger().error(
            f"topic '{camera.topic}': window [{job.window.t_start_us}, {job.window.t_end_us}) us {what}: "
            f"{type(error).__name__}: {error}; {then}",
            throttle_duration_sec=2.0,
        )

    # Executor

    def _on_reset_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._queue is None:
            response.success, response.message = False, "the node is not active, there is no state to reset"
            return response
        for camera in self._cameras:
            self._queue.put(ResetJob(camera))
        response.success = True
        response.message = f"membranes of {len(self._cameras)} stream(s) go to rest after the windows already queued"
        return response

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        result = parameters.check(changes, unconfigured=self._pipeline is None, model_fixed=self._model_declared)
        if result.successful:
            for change in changes:
                self._apply(change.name, change.value)
        return result

    def _apply(self, name: str, value: Any) -> None:
        """Take over a parameter that may change while running; the inference thread reads it at its next window."""
        if self._settings:
            self._settings[name] = value
        if self._pipeline is not None and name in ("score_threshold", "max_detections"):
            setattr(self._pipeline, name, value)
        if self._cameras and name == "score_threshold":
            self._publish_label_info()

    def _publish_label_info(self) -> None:
        assert self._pipeline is not None
        header = Header(stamp=self.get_clock().now().to_msg())
        threshold = float(self._settings["score_threshold"])
        self._label_info.publish(to_label_info(self._pipeline.spec.classes, header, threshold))

    def _publish_vision_info(self) -> None:
        assert self._pipeline is not None
        spec, header = self._pipeline.spec, Header(stamp=self.get_clock().now().to_msg())
        method, location = f"{spec.backbone.name}+{spec.head.name}", f"{self.get_fully_qualified_name()}/model.classes"
        self._vision_info.publish(to_vision_info(method, location, 0, header))

    def _on_diagnostics(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg())
        queued = len(self._queue) if self._queue is not None else 0
        statuses = [
            camera_status(self.get_fully_qualified_name(), camera, queued, self._reported.setdefault(name, {}))
            for name, camera in self._cameras.items()
        ]
        for camera in self._cameras.values():
            if camera.is_silent:
                self.get_logger().warning(
                    f"no packet on '{camera.topic}'; is the camera running, does its QoS match?",
                    throttle_duration_sec=10.0,
                )
        self._diagnostics.publish(DiagnosticArray(header=header, status=statuses))

    def destroy_node(self) -> None:
        """Stop the inference thread and free everything."""
        self._stop(self._budget_s)
        self._release()
        logging.getLogger("snn_perception").removeHandler(self._log_handler)
        super().destroy_node()


def main(argv: list[str] | None = None) -> int:
    """Run the node until it is interrupted; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        print(parameters.usage("detector_node"))
        return 0
    return run_node(DetectorNode, "detector_node", arguments)


if __name__ == "__main__":
    sys.exit(main())

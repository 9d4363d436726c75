"""The lifecycle node `detector`: event packets in, detections out, membrane state kept in between."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from snn_perception.errors import SnnPerceptionError
from snn_perception.ros import parameters
from snn_perception.ros.camera import Camera, EventCamera
from snn_perception.ros.cameras import Cameras
from snn_perception.ros.diagnostics import statuses
from snn_perception.ros.image_camera import ImageCamera
from snn_perception.ros.jobs import ResetJob
from snn_perception.ros.loading import load_plugins
from snn_perception.ros.logging import RosLogHandler
from snn_perception.ros.memory import NOTHING, Memory
from snn_perception.ros.model_in_use import ModelInUse
from snn_perception.ros.outlet import Outlet
from snn_perception.ros.qos import topics_of, without_effect
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.results import Told, WindowResult
from snn_perception.ros.running import run_node
from snn_perception.ros.worker import Batching, InferenceThread
from snn_perception.runtime.activity_watch import ActivityWatch
from snn_perception.runtime.pace import PaceLimits
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import stream_name
from snn_perception.runtime.serving import SETTINGS, Serving
from snn_perception.runtime.state_file import SavedStream

DRAIN_S = 30.0
HURRY_S = 2.0
log = logging.getLogger(__name__)
CUTTING = ("drop_duplicates", "input_type", "rate_times", "rate_mode")  # how windows come about, for the journal
Result = TransitionCallbackReturn


class DetectorNode(LifecycleNode):
    """Configure loads the model, activate subscribes, deactivate finishes what is under way, cleanup frees.

    Topics (relative): ``events``, or ``image`` for a model of images, in; ``detections``, ``detections/timing``,
    ``label_info``, ``vision_info`` (latched) out; with `cameras`, all but the latter two below the camera's name.
    ``/diagnostics``; service ``~/reset_state``.
    """

    def __init__(self, name: str = "detector", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._settings: dict[str, Any] = {}
        self._budget_s = DRAIN_S  # for what is under way when the node is deactivated
        self._model: ModelInUse | None = None
        self._queue: JobQueue | None = None
        self._worker: InferenceThread | None = None
        self._cameras: Cameras | None = None
        self._outlet: Outlet | None = None
        self._memory: Memory | None = None
        self._kept: dict[str, SavedStream] = {}  # states over a deactivation
        self._watch: ActivityWatch | None = None
        self._configured: list[Any] = []  # what on_cleanup destroys, with the function that does
        self._log_handler = RosLogHandler(self.get_logger())
        logging.getLogger("snn_perception").addHandler(self._log_handler)
        parameters.declare(self)  # last: a value that ROS refuses ends the construction here
        self.add_on_set_parameters_callback(self._on_set_parameters)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> Result:
        """Load the model and make the publishers; on failure the node stays unconfigured and says why."""
        try:
            self._settings = parameters.read(self)
            self._model = ModelInUse(self, self._settings, load_plugins(self._settings))
            self._make_publishers()
            self._model.declare()
        except Exception as error:  # rclpy would swallow it without a word
            self._refuse("configure", error)
            self._release()
            return Result.FAILURE
        self.get_logger().info(f"configured: {self._model}")
        return Result.SUCCESS

    def on_activate(self, state: LifecycleState) -> Result:
        """Start the inference thread, then listen; on failure the node stays inactive and says why."""
        if self._worker is not None and self._worker.is_running:
            self._refuse("activate", SnnPerceptionError("the last activation's inference is still at work; try later"))
            return Result.FAILURE
        try:
            cameras = self._start()
        except Exception as error:
            self._refuse("activate", error)
            self._stop(HURRY_S)
            return Result.FAILURE
        topics = ", ".join(camera.topic for camera in cameras.values())
        self.get_logger().info(f"active, listening on {topics}")
        if unused := without_effect(self):
            self.get_logger().warning(
                f"{', '.join(unused)}: no such topic and policy so far, so without effect; there are "
                f"{', '.join(topics_of(self))}, each with history, depth, reliability and durability"
            )
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

    def _start(self) -> Cameras:
        assert self._model is not None and self._outlet is not None
        settings, pipeline = self._settings, self._model.pipeline
        for name in SETTINGS:  # one that changed after the last window of an earlier activation too
            setattr(pipeline, name, settings[name])
        self._queue = queue = JobQueue(settings["queue_size"], settings["overload_policy"])
        self._memory = Memory(settings, queue, self._model.spec, self.get_logger())
        serving = Serving(pipeline, self._memory.journal)
        serving.begin(**{name: settings[name] for name in CUTTING}, checkpoint=self._model.checkpoint)
        self._watch = ActivityWatch(lambda: self._settings["activity_period_s"])
        self._prepare_looks(pipeline)
        self._cameras = cameras = Cameras(self._camera, queue, self.get_logger())
        told = Told(
            self._on_result, cameras.note_caught_up, cameras.note_failed, self._on_swapped, cameras.note_refused
        )
        self._worker = InferenceThread(serving, queue, told, self._watch)
        self._worker.max_age_ms, self._worker.batching = settings["max_age_ms"], Batching.of(settings)
        self._memory.keep(self._worker.snapshot)
        self._memory.restore([name for camera in self._names() for name in self._streams_of(camera)], self._kept)
        self._kept = {}
        self._worker.start()
        for name in self._names():
            cameras.join(name)
        self._outlet.describe(self._model.spec())
        return cameras

    def _names(self) -> list[str]:
        """Return the cameras that are to be listened to."""
        return self._settings["cameras"] or [""]

    def _streams_of(self, camera: str) -> list[str]:
        """Return the names of a camera's states."""
        banks = self._settings["rate_times"] if self._settings["rate_mode"] == "phase_banks" else 1
        return [stream_name(camera, phase) for phase in range(banks)]

    def _camera(self, name: str) -> Camera:
        assert self._model is not None and self._queue is not None
        pipeline = self._model.pipeline
        if self._settings["input_type"] == "image":
            return ImageCamera(self, name, self._settings, pipeline.spec.window_us, self._queue)
        return EventCamera(self, name, self._settings, self._model.registry, pipeline, self._queue)

    def _make_publishers(self) -> None:
        self._outlet = Outlet(self, self._names(), self._settings)
        self._own(self._outlet, Outlet.destroy)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._own(self._diagnostics, self.destroy_publisher)
        for name, answer in (
            ("~/reset_state", self._on_reset_state),
            ("~/save_state", self._on_save_state),
            ("~/load_state", self._on_load_state),
        ):
            self._own(self.create_service(Trigger, name, answer), self.destroy_service)
        # Not on the ROS clock: with use_sim_time that may stand still, and what stands still is to be reported.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = self._settings["diagnostics_period_s"]
        self._own(self.create_timer(period_s, self._on_diagnostics, clock=steady), self.destroy_timer)

    def _own(self, thing: Any, destroy: Any) -> None:
        self._configured.append((destroy, thing))

    def hurry(self, *, give_up: bool) -> None:
        """Let a deactivation to come take a moment only; with `give_up` nobody waits for room in the queue any more."""
        self._budget_s = HURRY_S
        if give_up and self._queue is not None:
            self._queue.close()

    def _stop(self, budget_s: float) -> None:
        """Stop listening, finish what is queued as far as `budget_s` allows, and forget the streams."""
        if self._model is not None:
            self._model.call_off_swap()
        if self._cameras is not None:
            self._cameras.stop(budget_s)
        if self._worker is not None and (lost := self._worker.stop(budget_s)) is not None:
            self.get_logger().error(
                f"inference did not finish within {budget_s:g} s: {lost} window(s) and the one in hand are lost"
            )
        if self._memory is not None:
            self._memory.stop()
        if self._worker is not None and not self._worker.is_running:
            self._kept = self._worker.streams() if self._settings["keep_state"] else {}
            self._worker = None
        if self._queue is not None and self._model is not None:
            self._model.give_up_swap()
        self._cameras = self._queue = self._memory = None
        self._forget_dead()

    def _release(self) -> None:
        while self._configured:
            destroy, thing = self._configured.pop()
            destroy(thing)
        if self._model is not None:
            self._model.undeclare()
        self._outlet, self._model, self._kept = None, None, {}
        self._forget_dead()

    def _forget_dead(self) -> None:
        """Drop what rclpy still lists of services, timers and subscriptions that are gone: it never does."""
        group = self.default_callback_group
        group.entities = {entity for entity in group.entities if entity() is not None}

    # Inference thread

    def _on_result(self, result: WindowResult) -> None:
        assert self._model is not None and self._outlet is not None and self._cameras is not None
        stages = self._outlet.publish(result)
        self._cameras.note(result, stages, PaceLimits.of(self._settings), self._model.pipeline.deadline_ms)

    def _on_swapped(self, name: str, pipeline: DetectionPipeline, error: Exception | None) -> None:
        """Go on with a model that took over, or say why one did not."""
        model, cameras, outlet = self._model, self._cameras, self._outlet
        if model is None:  # after a cleanup that did not wait for the inference thread
            return
        if error is not None:
            model.swap_failed(name, error)
            return
        model.swapped(name, pipeline)
        if cameras is not None:
            cameras.serve(pipeline)
        if outlet is not None:
            outlet.describe(pipeline.spec, is_new=True)
        self.get_logger().info(f"'{name}' has taken over")

    # Executor

    def _on_save_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._memory is not None:
            return self._memory.save_state(request, response)
        response.success, response.message = False, f"{NOTHING} save"
        return response

    def _on_load_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._memory is not None:
            cameras = self._cameras or ()
            return self._memory.load_state([s for name in cameras for s in self._streams_of(name)], response)
        response.success, response.message = False, f"{NOTHING} load"
        return response

    def _on_reset_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._queue is None or self._cameras is None:
            response.success, response.message = False, "the node is not active, there is no state to reset"
            return response
        for camera in self._cameras:
            self._queue.put(ResetJob(camera))
        response.success = True
        response.message = f"membranes of {len(self._cameras)} stream(s) go to rest after the windows already queued"
        return response

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        model = self._model
        is_declared = model is not None and model.is_declared
        result = parameters.check(changes, unconfigured=model is None, model_fixed=is_declared)
        changed = {change.name: parameters.without_blanks(change.value) for change in changes}
        reason = ""
        if result.successful and model is not None:
            reason = model.refusal(changed, is_active=self._worker is not None)
        if reason:
            result = SetParametersResult(successful=False, reason=reason)
        if result.successful:
            if self._settings:
                self._settings |= changed
            self._apply_settings({name: value for name, value in changed.items() if name in SETTINGS})
            for name, value in changed.items():
                self._apply(name, value)
        return result

    def _apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Take over what decides about detections, all of it from the same window on."""
        if self._worker is not None:
            self._worker.change(settings)
        elif self._model is not None:
            for name, value in settings.items():
                setattr(self._model.pipeline, name, value)

    def _apply(self, name: str, value: Any) -> None:
        """Take over a parameter that may change while running: from the next window on."""
        if name == "cameras" and self._settings:
            self._follow_cameras()
        elif name == "overload_policy" and self._queue is not None:
            self._queue.policy = value
        elif name == "max_age_ms" and self._worker is not None:
            self._worker.max_age_ms = value
        elif name in ("batch_cameras", "batch_slack_ms") and self._worker is not None:
            self._worker.batching = Batching.of(self._settings)
        if self._model is None:
            return
        if name == "score_threshold" and self._cameras and self._outlet is not None:
            self._outlet.describe(self._model.spec())
        elif name == "checkpoint" and self._queue is not None:
            self._model.begin_swap(self._queue, self._prepare_looks)

    def _prepare_looks(self, pipeline: DetectionPipeline) -> None:
        """Find a model's layers before it serves, since that takes longer than a window has."""
        if self._watch is not None and self._settings["activity_period_s"]:
            self._watch.prepare(pipeline.detector)

    def _follow_cameras(self) -> None:
        """Listen to the cameras that have joined, and no more to those that have left."""
        if self._cameras is None or self._outlet is None:
            return
        names = self._names()
        for name in [name for name in self._cameras if name not in names]:
            self._cameras.leave(name, DRAIN_S)
            self.get_logger().info(f"camera '{name}' has left")
        for name in [name for name in names if name not in self._cameras]:
            try:
                self._outlet.join(name)
                self._cameras.join(name)
            except Exception as error:  # such as QoS overrides that do not exist; the others must not suffer from it
                self._refuse(f"listen to camera '{name}'", error)
                continue
            self.get_logger().info(f"camera '{name}' has joined, listening on {self._cameras[name].topic}")

    def _follow_swap(self) -> None:
        """Bring the parameters up to date with a model that took over, or did not."""
        if self._model is not None and self._model.follow() and self._cameras is not None:
            self._cameras.serve(self._model.pipeline)  # one may have joined at that very moment

    def _on_diagnostics(self) -> None:
        try:
            if self._queue is not None:
                self._queue.wait_for_a_moment()  # it takes a tenth of a window's time
            self._follow_swap()
            self._report()
        except Exception as error:  # a report that fails must not end detection
            self.get_logger().error(
                f"diagnostics failed: {type(error).__name__}: {error}; detection goes on", throttle_duration_sec=10.0
            )

    def _report(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg())
        queued = 0 if self._queue is None else len(self._queue)
        looks = {} if self._watch is None else self._watch.reports()
        limits, name = PaceLimits.of(self._settings), self.get_fully_qualified_name()
        found = statuses(name, {} if self._cameras is None else self._cameras, looks, queued, limits)
        if self._cameras is not None:
            self._cameras.warn_of_silence()
        self._diagnostics.publish(DiagnosticArray(header=header, status=found))

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

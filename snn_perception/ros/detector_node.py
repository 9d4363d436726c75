"""The lifecycle node `detector`: event packets in, detections out, membrane state kept in between."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from snn_perception.errors import SnnPerceptionError
from snn_perception.registry import Registry
from snn_perception.ros import parameters
from snn_perception.ros.camera import Camera, EventCamera
from snn_perception.ros.diagnostics import activity_status, camera_status
from snn_perception.ros.image_camera import ImageCamera
from snn_perception.ros.jobs import LoadJob, ResetJob, SwapJob, WindowJob
from snn_perception.ros.loading import load_pipeline, load_plugins
from snn_perception.ros.logging import RosLogHandler
from snn_perception.ros.memory import NOTHING, Memory
from snn_perception.ros.outlet import Outlet
from snn_perception.ros.qos import topics_of, without_effect
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.refusing import Running
from snn_perception.ros.results import Told, WindowResult
from snn_perception.ros.running import run_node
from snn_perception.ros.swapping import Swapping
from snn_perception.ros.worker import Batching, InferenceThread
from snn_perception.runtime.activity_watch import ActivityWatch
from snn_perception.runtime.pace import PaceLimits
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import stream_name
from snn_perception.runtime.serving import SETTINGS, Serving
from snn_perception.runtime.state_file import SavedStream
from snn_perception.spec import ModelSpec

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
        self._model_declared = False
        self._budget_s = DRAIN_S  # for what is under way when the node is deactivated
        self._registry: Registry | None = None
        self._pipeline: DetectionPipeline | None = None
        self._queue: JobQueue | None = None
        self._worker: InferenceThread | None = None
        self._cameras: dict[str, Camera] = {}
        self._left: dict[str, Camera] = {}  # cameras of which windows may still be at work
        self._outlet: Outlet | None = None
        self._memory: Memory | None = None
        self._kept: dict[str, SavedStream] = {}  # states over a deactivation
        self._serves = ""  # checkpoint in use
        self._watch: ActivityWatch | None = None
        self._is_new_model = False
        self._swapping: Swapping | None = None
        self._not_taken: str | None = None  # checkpoint that did not take over, until the parameter is set back
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
            self._registry = load_plugins(self._settings)
            self._pipeline, self._serves = load_pipeline(self._settings, self._registry), self._settings["checkpoint"]
            self._not_taken, self._is_new_model = None, False
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
            self._stop(HURRY_S)
            return Result.FAILURE
        topics = ", ".join(camera.topic for camera in self._cameras.values())
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

    def _start(self) -> None:
        assert self._pipeline is not None and self._registry is not None and self._outlet is not None
        settings = self._settings
        for name in SETTINGS:  # one that changed after the last window of an earlier activation too
            setattr(self._pipeline, name, settings[name])
        self._queue = JobQueue(settings["queue_size"], settings["overload_policy"])
        self._memory = Memory(settings, self._queue, self._spec, self.get_logger())
        serving = Serving(self._pipeline, self._memory.journal)
        serving.begin(**{name: settings[name] for name in CUTTING}, checkpoint=self._serves)
        self._watch = ActivityWatch(lambda: self._settings["activity_period_s"])
        self._prepare_looks(self._pipeline)
        told = Told(
            self._on_result, self._on_caught_up, self._on_failed_window, self._on_swapped, self._on_refused_state
        )
        self._worker = InferenceThread(serving, self._queue, told, self._watch)
        self._worker.max_age_ms, self._worker.batching = settings["max_age_ms"], Batching.of(settings)
        self._memory.keep(self._worker.snapshot)
        names = settings["cameras"] or [""]
        self._memory.restore([name for camera in names for name in self._streams_of(camera)], self._kept)
        self._kept = {}
        self._worker.start()
        for name in names:
            self._listen_to(name)
        self._outlet.describe(self._pipeline.spec)

    def _spec(self) -> ModelSpec:
        assert self._pipeline is not None
        return self._pipeline.spec

    def _streams_of(self, camera: str) -> list[str]:
        """Return the names of a camera's states."""
        banks = self._settings["rate_times"] if self._settings["rate_mode"] == "phase_banks" else 1
        return [stream_name(camera, phase) for phase in range(banks)]

    def _listen_to(self, name: str) -> None:
        self._cameras[name] = self._camera(name)  # before its first window
        self._cameras[name].start()

    def _camera(self, name: str) -> Camera:
        assert self._pipeline is not None and self._registry is not None and self._queue is not None
        if self._settings["input_type"] == "image":
            return ImageCamera(self, name, self._settings, self._pipeline.spec.window_us, self._queue)
        return EventCamera(self, name, self._settings, self._registry, self._pipeline, self._queue)

    def _make_publishers(self) -> None:
        self._outlet = Outlet(self, self._settings["cameras"] or [""], self._settings)
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
        self._declare_model()

    def _declare_model(self) -> None:
        """Declare what the checkpoint says, in place of what another one said."""
        assert self._pipeline is not None
        self._model_declared = False
        for name, value in parameters.of_model(self._pipeline.spec).items():
            if self.has_parameter(name):
                self.undeclare_parameter(name)
            descriptor = ParameterDescriptor(description=parameters.FROM_CHECKPOINT)
            self.declare_parameter(name, value, descriptor, ignore_override=True)
        self._model_declared = True

    def _undeclare_model(self) -> None:
        for name in parameters.MODEL:
            if self.has_parameter(name):
                self.undeclare_parameter(name)
        self._model_declared = False

    def _own(self, thing: Any, destroy: Any) -> None:
        self._configured.append((destroy, thing))

    def hurry(self, *, give_up: bool) -> None:
        """Let a deactivation to come take a moment only; with `give_up` nobody waits for room in the queue any more."""
        self._budget_s = HURRY_S
        if give_up and self._queue is not None:
            self._queue.close()

    def _stop(self, budget_s: float) -> None:
        """Stop listening, finish what is queued as far as `budget_s` allows, and forget the streams."""
        self._call_off_swap()
        for camera in self._cameras.values():
            camera.stop(budget_s, budget_s)
        if self._worker is not None and (lost := self._worker.stop(budget_s)) is not None:
            self.get_logger().error(
                f"inference did not finish within {budget_s:g} s: {lost} window(s) and the one in hand are lost"
            )
        if self._memory is not None:
            self._memory.stop()
        if self._worker is not None and not self._worker.is_running:
            self._kept = self._worker.streams() if self._settings["keep_state"] else {}
            self._worker = None
        if self._queue is not None and (wanted := self._settings["checkpoint"]) != self._serves:
            self._not_taken = wanted
            self.get_logger().warning(f"'{wanted}' has not taken over in time, '{self._serves}' stays")
        self._cameras, self._left, self._queue, self._memory, self._reported = {}, {}, None, None, {}
        self._forget_dead()

    def _release(self) -> None:
        while self._configured:
            destroy, thing = self._configured.pop()
            destroy(thing)
        self._undeclare_model()
        self._outlet, self._pipeline, self._registry, self._kept = None, None, None, {}
        self._forget_dead()

    def _forget_dead(self) -> None:
        """Drop what rclpy still lists of services, timers and subscriptions that are gone: it never does."""
        group = self.default_callback_group
        group.entities = {entity for entity in group.entities if entity() is not None}

    # Inference thread

    def _on_result(self, result: WindowResult) -> None:
        assert self._pipeline is not None and self._outlet is not None
        figures = self._served(result.job.camera).figures
        figures.stages.append(self._outlet.publish(result))
        figures.pace.published(time.monotonic_ns(), result.inference_ns / 1e6, self._pace_limits())
        figures.published += 1
        figures.batched_windows += result.batch > 1
        figures.detections += len(result.detections)
        figures.gaps, figures.resets = result.stream.gaps, result.stream.resets
        figures.inference_ns.append(result.inference_ns)
        figures.latency_ns.append(result.latency_ns)
        if result.detections.steps is not None:
            figures.network_steps.append(result.detections.steps)
            figures.late_windows += result.latency_ns > self._pipeline.deadline_ms * 1e6

    def _served(self, camera: str) -> Camera:
        """Return a camera, also one that has left while its last windows are at work."""
        return self._cameras.get(camera) or self._left[camera]  # a leaving one is in both for a moment

    def _on_caught_up(self, job: WindowJob) -> None:
        self._served(job.camera).figures.caught_up_windows += 1

    def _on_failed_window(self, job: WindowJob, error: Exception, in_step: bool) -> None:
        camera = self._served(job.camera)
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

    def _on_swapped(self, name: str, pipeline: DetectionPipeline, error: Exception | None) -> None:
        """Go on with a model that took over, or say why one did not."""
        if error is not None:
            self._on_failed_swap(name, error)
            return
        before, self._pipeline, self._serves = self._serves, pipeline, name
        self._is_new_model = True  # the executor declares its parameters
        for camera in list(self._cameras.values()):  # the executor may let one join or leave meanwhile
            camera.serve(pipeline)
        if self._settings["checkpoint"] == before:  # it was called off too late
            self._not_taken = before
        if self._outlet is not None:
            self._outlet.describe(pipeline.spec, is_new=True)
        self.get_logger().info(f"'{self._serves}' has taken over")

    def _on_failed_swap(self, name: str, error: Exception) -> None:
        self._not_taken = name  # the executor sets the parameter back
        reason = " ".join(str(error).split()) or type(error).__name__
        self.get_logger().error(f"'{name}' cannot take over, '{self._serves}' goes on: {reason}")

    def _on_refused_state(self, job: LoadJob, gap_ms: float) -> None:
        self.get_logger().warning(
            f"camera '{job.camera}' starts from rest: its saved state is {gap_ms / 1000:.1f} s from the next window, "
            f"restore_max_gap_ms allows {job.max_gap_ms or 0} ms"
        )

    # Executor

    def _on_save_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._memory is not None:
            return self._memory.save_state(request, response)
        response.success, response.message = False, f"{NOTHING} save"
        return response

    def _on_load_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._memory is not None:
            return self._memory.load_state([s for name in self._cameras for s in self._streams_of(name)], response)
        response.success, response.message = False, f"{NOTHING} load"
        return response

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
        changed = {change.name: parameters.without_blanks(change.value) for change in changes}
        if result.successful and (reason := self._refusal(changed)):
            result = SetParametersResult(successful=False, reason=reason)
        if result.successful:
            if self._settings:
                self._settings |= changed
            self._apply_settings({name: value for name, value in changed.items() if name in SETTINGS})
            for name, value in changed.items():
                self._apply(name, value)
        return result

    def _refusal(self, wanted: Mapping[str, Any]) -> str:
        """Return why the model in use, if there is one, does not agree to values of parameters; empty if it does."""
        if self._pipeline is None:
            return ""
        running = Running(self._pipeline, self._serves, is_active=self._worker is not None)
        return running.refusal(wanted, self._settings["classes"])

    def _apply_settings(self, settings: Mapping[str, Any]) -> None:
        """Take over what decides about detections, all of it from the same window on."""
        if self._worker is not None:
            self._worker.change(settings)
        elif self._pipeline is not None:
            for name, value in settings.items():
                setattr(self._pipeline, name, value)

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
        if self._cameras and name == "score_threshold" and self._outlet is not None and self._pipeline is not None:
            self._outlet.describe(self._pipeline.spec)
        if name == "checkpoint" and self._queue is not None:
            self._begin_swap(self._queue)

    def _begin_swap(self, queue: JobQueue) -> None:
        """Load the checkpoint that was asked for, in place of one asked for before; none if it is in use."""
        self._call_off_swap()
        if self._settings["checkpoint"] == self._serves:
            queue.put(SwapJob(None))
            return
        assert self._registry is not None and self._pipeline is not None
        spec, settings = self._pipeline.spec, self._settings
        self._swapping = Swapping(settings, self._registry, spec, queue, self._prepare_looks, self._on_failed_swap)
        self._swapping.start()

    def _call_off_swap(self) -> None:
        if self._swapping is not None:
            self._swapping.give_up()
            self._swapping = None

    def _prepare_looks(self, pipeline: DetectionPipeline) -> None:
        """Find a model's layers before it serves, since that takes longer than a window has."""
        if self._watch is not None and self._settings["activity_period_s"]:
            self._watch.prepare(pipeline.detector)

    def _follow_cameras(self) -> None:
        """Listen to the cameras that have joined, and no more to those that have left."""
        if self._queue is None or self._outlet is None:
            return
        names = self._settings["cameras"] or [""]
        for name in [name for name in self._cameras if name not in names]:
            camera = self._left[name] = self._cameras[name]  # its last windows are at work
            del self._cameras[name]
            camera.stop(DRAIN_S, 0.0)
            self._queue.put(ResetJob(name))
            self.get_logger().info(f"camera '{name}' has left")
        for name in [name for name in names if name not in self._cameras]:
            try:
                self._outlet.join(name)
                self._listen_to(name)
            except Exception as error:  # such as QoS overrides that do not exist; the others must not suffer from it
                self._refuse(f"listen to camera '{name}'", error)
                continue
            self.get_logger().info(f"camera '{name}' has joined, listening on {self._cameras[name].topic}")

    def _follow_swap(self) -> None:
        """Bring the parameters up to date with a model that took over, or did not."""
        if self._is_new_model:
            self._is_new_model = False
            self._declare_model()
            if self._pipeline is not None:
                for camera in self._cameras.values():  # one may have joined at that very moment
                    camera.serve(self._pipeline)
        not_taken, self._not_taken = self._not_taken, None
        if not_taken is not None and not_taken == self._settings["checkpoint"] != self._serves:
            self.set_parameters([Parameter("checkpoint", value=self._serves)])

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
        queued = len(self._queue) if self._queue is not None else 0
        node, now_ns, limits = self.get_fully_qualified_name(), time.monotonic_ns(), self._pace_limits()
        statuses = [
            camera_status(
                node, camera, queued, self._reported.setdefault(name, {}), camera.figures.pace.report(now_ns, limits)
            )
            for name, camera in self._cameras.items()
        ]
        if self._watch is not None:
            looks = self._watch.reports().items()
            statuses += [activity_status(node, camera, report) for camera, report in looks if camera in self._cameras]
        for camera in self._cameras.values():
            if camera.is_silent:
                self.get_logger().warning(
                    f"no packet on '{camera.topic}'; is the camera running, does its QoS match?",
                    throttle_duration_sec=10.0,
                )
        self._diagnostics.publish(DiagnosticArray(header=header, status=statuses))

    def _pace_limits(self) -> PaceLimits:
        settings = self._settings
        return PaceLimits(settings["max_allowed_processing_time_ms"], settings["max_acceptable_consecutive_delay_ms"])

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

"""An executor on a Ray cluster (optional extra ``ray``), for more recordings than one machine gets through.

Ray runs whatever its users send, and neither its ports nor its dashboard ask for a password: a cluster is for trusted
networks only. All machines need this package, its plugins and the recordings under the same paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from snn_perception.errors import SnnPerceptionError
from snn_perception.work.attempt import Outcome, attempt
from snn_perception.work.bounded import BoundedExecutor, Numbered
from snn_perception.work.executor import mark_as_worker
from snn_perception.work.threads import VARIABLES, one_thread

if TYPE_CHECKING:
    from types import ModuleType


class RayExecutor(BoundedExecutor):
    """Runs units as Ray tasks of one processor each; a task whose machine is lost runs once more elsewhere.

    Args:
        workers: units at a time; by default as many as the cluster has processors.
        address: of the cluster; by default what ``RAY_ADDRESS`` says, or a cluster of this machine for this run.

    Raises:
        SnnPerceptionError: if Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        address = address or os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
        one_thread_each = {"env_vars": dict.fromkeys(VARIABLES, "1")}
        try:
            self._ray.init(address=address, ignore_reinit_error=True, runtime_env=one_thread_each, **local)
        except Exception as error:
            where = f"the cluster at {address} (RAY_ADDRESS)" if address else "a cluster of this machine"
            raise SnnPerceptionError(f"ray: {where} cannot be used: {error}") from error
        self.workers = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._running: dict[Any, Numbered] = {}  # by reference to what will come of it

    def close(self) -> None:
        """Cancel what runs and leave the cluster; one that was started for this run ends."""
        self._cancel()
        if self._is_ours:
            self._ray.shutdown()

    def _prepared(self, function: Callable[[Any], Any]) -> tuple[Any, Any]:
        return self._ray.remote(num_cpus=1, max_retries=1)(run_unit), self._ray.put(function)

    def _start(self, prepared: tuple[Any, Any], numbered: Numbered) -> None:
        task, function = prepared
        self._running[task.remote(function, numbered.unit)] = numbered

    def _answers(self) -> Iterator[tuple[Numbered, Outcome]]:
        for reference in self._ray.wait(list(self._running), num_returns=1)[0]:
            numbered = self._running.pop(reference)
            try:
                yield numbered, self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                raise SnnPerceptionError(
                    f"{numbered.name}: its Ray worker was lost, most likely because memory ran out (use fewer "
                    f"--workers): {error}"
                ) from error

    def _cancel(self) -> None:
        running, self._running = list(self._running), {}
        for reference in running:
            self._ray.cancel(reference, force=True)


def run_unit(function: Callable[[Any], Any], unit: object) -> Outcome:
    """Return what came of one unit; runs in a Ray worker."""
    mark_as_worker()
    with one_thread():
        return attempt(function, unit)


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise SnnPerceptionError(
            f"the executor 'ray' needs the package ray ({error}); install it with: pip install 'snn_perception[ray]', "
            "or use the executor 'processes'"
        ) from error
    module: ModuleType = ray
    return module

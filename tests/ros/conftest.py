"""Fixtures of the tests that need ROS: a domain of their own, a woken checkpoint, and a recording of moving shapes."""

import os
from pathlib import Path

import pytest
import torch

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from snn_perception import load_registry, save_checkpoint  # noqa: E402
from snn_perception.data.shapes import moving_shapes  # noqa: E402
from snn_perception.detector import build_preset  # noqa: E402
from snn_perception.events.dat_writer import write_dat  # noqa: E402
from snn_perception.ros.live import local_domain  # noqa: E402
from snn_perception.types import SensorSize  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def own_domain():
    """Keep the tests' nodes to this machine and to this run."""
    os.environ.pop("ROS_DOMAIN_ID", None)
    local_domain()
    torch.set_num_threads(1)  # as the node's default: another number of threads rounds differently


@pytest.fixture(scope="session")
def registry():
    return load_registry()


@pytest.fixture(scope="session")
def shapes_dat(tmp_path_factory) -> Path:
    """Return a DAT file of two seconds of moving shapes on the model's own sensor."""
    path = tmp_path_factory.mktemp("recordings") / "shapes.dat"
    size = SensorSize(240, 304)
    write_dat(path, moving_shapes(size, 2_000_000, seed=5), size)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, registry, shapes_dat) -> Path:
    """Return an untrained ST-VGG checkpoint that fires on the shapes."""
    from snn_perception.runtime.waking import wake_on_recording

    path = tmp_path_factory.mktemp("models") / "st_vgg_ssd_16.safetensors"
    detector = build_preset("st_vgg_ssd_16", registry=registry)
    wake_on_recording(detector, shapes_dat, registry, windows=6)
    save_checkpoint(path, detector)
    return path


@pytest.fixture
def bench(checkpoint):
    """Return what makes a `Bench`: a detector node in this process that loses nothing, for the parameters given."""
    from tests.ros.test_detector_node import Bench

    benches = []

    def make(**parameters):
        settings = {
            "checkpoint": str(checkpoint), "overload_policy": "block", "qos_reliability": "reliable", "qos_depth": 0,
            "score_threshold": 0.5, "diagnostics_period_s": 0.1,
        }  # fmt: skip
        benches.append(Bench(**{**settings, **parameters}))
        return benches[-1]

    yield make
    for made in benches:
        made.close()

"""Nodes as processes of their own, started as a launch file would, and a node that looks at them over DDS."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor

from tests.paths import ROOT


@contextmanager
def started(node, tmp_path):
    """Run what a launch file would start; what it prints goes to a file."""
    arguments = ["--ros-args", "-r", f"__node:={node['name']}"]
    if node["namespace"]:
        arguments += ["-r", f"__ns:={node['namespace']}"]
    for number, given in enumerate(node["parameters"]):
        if isinstance(given, dict):
            file = tmp_path / f"{node['name']}_{number}.yaml"
            file.write_text(json.dumps({"/**": {"ros__parameters": given}}))  # as launch_ros hands them over
            given = file
        arguments += ["--params-file", str(given)]
    for name, topic in node["remappings"]:
        arguments += ["-r", f"{name}:={topic}"]
    command = [sys.executable, "-m", f"snn_perception.ros.{node['executable']}", *arguments]
    with (tmp_path / f"{node['name']}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def observer(name):
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        yield node, executor
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


def spin_until(executor, done, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come"
        executor.spin_once(timeout_sec=0.05)

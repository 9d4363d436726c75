"""The commands. Each module's ``main(argv) -> int`` parses, calls one function below this layer, and prints.

A command is a console script (see setup.py) and a word after ``python -m snn_perception``; the table serves the latter.
The nodes are started in the same ways, but take ROS arguments (``--ros-args -p NAME:=VALUE``) in place of options.
"""

from __future__ import annotations

# Name -> (module, one line for the list).
COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("snn_perception.cli.bench", "time a window of a model by every engine, beside what is possible"),
    "convert": (
        "snn_perception.cli.convert",
        "write a recording in another format, or authors' weights as a checkpoint",
    ),
    "doctor": ("snn_perception.cli.doctor", "check an installation end to end, and say what to do where it fails"),
    "evaluate": ("snn_perception.cli.evaluate", "score a detector on labelled recordings, and report its cost"),
    "export": ("snn_perception.cli.export", "write a model's step as an ONNX graph with named states"),
    "inspect": ("snn_perception.cli.inspect", "tell what a recording holds: events, times, rates, losses, digest"),
    "monitor": ("snn_perception.cli.monitor", "show the detector nodes that run: rates, latency, losses (ROS 2)"),
    "plugins": ("snn_perception.cli.plugins", "list components and options, or count a model's size and operations"),
    "replay": ("snn_perception.cli.replay", "run a detector over a recording, window by window"),
    "soak": ("snn_perception.cli.soak", "hours of sensor time through a model, watched for what grows"),
    "synth": ("snn_perception.cli.synth", "make a synthetic driving set with labels, or verify one"),
    "train": ("snn_perception.cli.train", "teach a detector on labelled recordings"),
}
NODES: dict[str, tuple[str, str]] = {
    "detector_node": ("snn_perception.ros.detector_node", "the ROS 2 node: event packets in, detections out"),
    "player_node": ("snn_perception.ros.player_node", "publish a recording as the camera would have (ROS 2)"),
}

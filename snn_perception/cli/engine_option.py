"""The option ``--engine`` of commands that run a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from snn_perception.cli.stages import told_stages

if TYPE_CHECKING:
    from snn_perception.detector import Detector
    from snn_perception.engine.engines import Engine


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``."""
    parser.add_argument(
        "--engine",
        default="detector",
        metavar="NAME",
        help="what runs the network: detector as it is (default), native, onnxruntime, openvino, compile, cudagraph, "
        "tensorrt, eager, or auto, the fastest here. Each rounds in its own way",
    )


def engine_of(arguments: argparse.Namespace, detector: Detector) -> Engine:
    """Return the engine that is asked for; where making it takes long, stderr tells."""
    from snn_perception.engine.choose import build_engine
    from snn_perception.engine.engines import Settings

    with told_stages(enabled=not arguments.json) as on_stage:
        return build_engine(arguments.engine, detector, Settings(threads=arguments.threads or 1, on_stage=on_stage))

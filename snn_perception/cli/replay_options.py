"""The options of ``replay``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from snn_perception.cli.common import make_parser, microseconds, positive_int, score_from_0_to_1, sensor_size
from snn_perception.cli.engine_option import add_engine_option
from snn_perception.cli.opening import ENCODING_HELP
from snn_perception.cli.replay_input import fps


def parser_of_options() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser(
        "replay",
        "Run a detector over a recording: what the live node would publish with the same score threshold, offline.",
    )
    parser.set_defaults(threads=1)  # the same arithmetic, and so the same bits, on every machine
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, or the name of shipped weights or of a preset (untrained)"
    )
    parser.add_argument(
        "recording",
        metavar="RECORDING",
        type=Path,
        help="a file or bag of events; for a model of images, a bag with an image topic or a folder of images",
    )
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="J.jsonl",
        help="repeat a live run of MODEL on RECORDING with the decisions in the node's journal (parameter journal); of "
        "several cameras, topics are /CAMERA/events and detections go to one file each",
    )
    parser.add_argument("--detections", type=Path, metavar="F.jsonl", help="write one line of JSON per window here")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="BAG",
        help="write events and detections into a ROS 2 bag: a file BAG.mcap, or a folder (no suffix). A bag's messages "
        "are copied as they are, up to the last one used; other recordings' events become EventPackets (evt3)",
    )
    parser.add_argument(
        "--storage", choices=("sqlite3", "mcap"), default="sqlite3", help="of a folder's bag (default: sqlite3)"
    )
    parser.add_argument(
        "--events-topic", metavar="T", help="topic of the events in the bag (default: /events; of images: /image)"
    )
    parser.add_argument(
        "--detections-topic", default="/detections", metavar="T", help="and of the detections (default: /detections)"
    )
    parser.add_argument("--video", type=Path, metavar="F.mp4|F.gif", help="draw events and boxes into a video")
    parser.add_argument(
        "--video-boxes", type=positive_int, default=10, metavar="N", help="draw the N best boxes (default: 10)"
    )
    parser.add_argument(
        "--score-threshold",
        type=score_from_0_to_1,
        default=0.0,
        metavar="S",
        help="leave out detections below S (default: 0; the node's is 0.3)",
    )
    parser.add_argument("--max-detections", type=positive_int, metavar="N", help="at most the N best of each window")
    parser.add_argument(
        "--nms-threshold",
        type=score_from_0_to_1,
        metavar="IOU",
        help="suppress a box by a better one of its class at an IoU above this (default: as the model says)",
    )
    parser.add_argument(
        "--classes",
        type=_classes,
        default=(),
        metavar="A,B",
        help="leave out, after suppression, detections of other classes than these names or numbers (default: all)",
    )
    parser.add_argument(
        "--deadline-ms",
        type=_deadline,
        default=0.0,
        metavar="MS",
        help="a model that may stop early runs the network steps that fit into so long for each window (default: all)",
    )
    add_engine_option(parser)
    parser.add_argument(
        "--geometry",
        choices=("scale", "crop", "strict"),
        default="scale",
        help="for a sensor of another size than the model's (default: scale)",
    )
    parser.add_argument(
        "--max-gap-ms",
        type=_gap,
        default=1000,
        metavar="MS",
        help="a longer interruption resets the model (default: 1000)",
    )
    parser.add_argument(
        "--from-s",
        type=microseconds,
        metavar="S",
        help="begin with the whole window that holds this second of sensor time",
    )
    parser.add_argument(
        "--to-s",
        type=microseconds,
        metavar="S",
        help="end at this second of sensor time, or with the end of the whole window that holds it",
    )
    parser.add_argument("--drop-duplicates", action="store_true", help="leave out events that are in the file twice")
    parser.add_argument("--max-windows", type=positive_int, metavar="N", help="stop after N windows")
    parser.add_argument("--reader", metavar="NAME", help="read the recording as this format")
    parser.add_argument("--encoding", metavar="NAME", help=ENCODING_HELP)
    parser.add_argument("--topic", help="topic of a bag that has several")
    parser.add_argument(
        "--fps", type=fps, default=30.0, metavar="F", help="images per second of a folder of images (default: 30)"
    )
    parser.add_argument("--size", type=sensor_size, metavar="WxH", help="sensor size in pixels, where none is stated")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu (default), cuda, cuda:1, ...")
    parser.add_argument(
        "--wake",
        type=positive_int,
        metavar="N",
        help="let the norms of an untrained model see the first N windows that hold events, so that it fires",
    )
    parser.add_argument(
        "--firing-rates",
        action="store_true",
        help="measure how often the neurons fire (takes some time of each window)",
    )
    return parser


def _classes(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _deadline(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


_deadline.__name__ = "time in ms"


def _gap(text: str) -> int:
    value = int(text)
    if value < 100:  # decoders tell of no shorter interruption
        raise argparse.ArgumentTypeError(f"must be at least 100, got {text}")
    return value


_gap.__name__ = "number of milliseconds"

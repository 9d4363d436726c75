"""``convert SRC -o DST``: a recording in another format, or an author's weights as a checkpoint of this project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from snn_perception.cli import convert_folder, convert_recording, convert_weights
from snn_perception.cli.common import make_parser, reading_registry_of, registry_of, run
from snn_perception.cli.opening import told_of_folder

TO_ALL = f"--to {'|'.join(convert_recording.FORMATS)} -o FOLDER"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_convert, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "convert",
        "Write a recording in another format, or all recordings of a folder, or an author's weights as a checkpoint of "
        "this project. Which of them is told from SRC.",
    )
    parser.add_argument(
        "sources",
        metavar="SRC",
        type=Path,
        nargs="+",
        help=f"a recording (file or bag), or a folder of recordings or several of either (with --to), or weights "
        f"({convert_weights.WEIGHTS}); nothing in them is executed",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DST",
        required=True,
        help=f"recording: {convert_recording.DESTINATIONS}; many recordings: a folder; weights: .safetensors",
    )
    convert_weights.add_options(parser.add_argument_group("weights"))
    convert_recording.add_options(parser.add_argument_group("recordings"))
    convert_folder.add_options(parser.add_argument_group("many recordings"))
    return parser


def _convert(arguments: argparse.Namespace) -> None:
    from snn_perception.discovery import load_registry
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.events.recording import find_reader

    if len(arguments.sources) > 1:
        convert_folder.convert(arguments)
        return
    source = arguments.source = arguments.sources[0]
    if not source.exists():
        raise SnnPerceptionError(
            f"{source}: no such file; expected a recording, or weights ({convert_weights.WEIGHTS})"
        )
    if arguments.importer is None:
        registry = reading_registry_of(arguments, source, arguments.reader)
        is_folder = source.is_dir() and not find_reader(source, registry)
        if is_folder and arguments.to is not None:
            convert_folder.convert(arguments)
            return
        _refuse_options_of_many(arguments)
        if arguments.reader or find_reader(source, registry):
            convert_recording.convert(arguments, registry)
            return
        if is_folder:
            raise SnnPerceptionError(f"{told_of_folder(source, registry)}; or convert all that are in it: {TO_ALL}")
        given = convert_recording.given_options(arguments)
        if given or convert_recording.is_recording_name(arguments.output):
            why = f"{given[0]} is for recordings" if given else f"'{arguments.output}' is the name of one"
            raise SnnPerceptionError(
                f"{source}: is no recording that is known here, but {why}; name its format with --reader, or give "
                f"weights ({convert_weights.WEIGHTS}) and a DST that ends in .safetensors"
            )
        convert_weights.convert(arguments, registry)
        return
    if find_reader(source, load_registry(installed=False)):  # the core's readers; a plugin's may claim weights too
        raise SnnPerceptionError(f"{source}: is a recording, and --importer is for weights; leave it out")
    _refuse_options_of_many(arguments)
    convert_weights.convert(arguments, registry_of(arguments))


def _refuse_options_of_many(arguments: argparse.Namespace) -> None:
    from snn_perception.errors import SnnPerceptionError

    given = convert_folder.given_options(arguments)
    if given:
        raise SnnPerceptionError(f"{arguments.source}: {given[0]} is for a folder of recordings, with {TO_ALL}")


if __name__ == "__main__":
    sys.exit(main())

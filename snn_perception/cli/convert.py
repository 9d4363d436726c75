"""``convert SRC -o DST``: an author's weights become a checkpoint of this project."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import make_parser, print_json, print_rows, registry_of, run

if TYPE_CHECKING:
    from snn_perception.registry import Registry

WEIGHTS = ".pt, .pth, .ckpt or .safetensors"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_convert, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("convert", f"Turn an author's weights ({WEIGHTS}) into a checkpoint of this project.")
    parser.add_argument("source", metavar="SRC", type=Path, help=f"weights ({WEIGHTS}); nothing in them is executed")
    parser.add_argument("-o", "--output", metavar="DST", type=Path, required=True, help="checkpoint (.safetensors)")
    parser.add_argument(
        "--importer", metavar="NAME", help="read the file as this importer does (default: the one that knows it)"
    )
    return parser


def _convert(arguments: argparse.Namespace) -> None:
    source, output = arguments.source, arguments.output
    _check_output(source, output)
    registry = registry_of(arguments)
    _refuse_recording(source, registry)
    from snn_perception.checkpoint import save_checkpoint
    from snn_perception.importing import import_weights

    imported = import_weights(source, registry, importer=arguments.importer)
    save_checkpoint(output, imported.detector, run=imported.run_record())
    spec = imported.detector.spec
    result = {
        "source": str(source),
        "sha256": imported.sha256,
        "output": str(output),
        "spec_hash": spec.hash(),
        "classes": list(spec.classes),
        "parameters": sum(parameter.numel() for parameter in imported.detector.parameters()),
        **imported.run_record()["report"],
    }
    if arguments.json:
        print_json(result)
    else:
        print_rows(_rows(result))


def _check_output(source: Path, output: Path) -> None:
    """Refuse what cannot be written before any long work."""
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.whole_file import check_writable

    if not source.exists():
        raise SnnPerceptionError(f"{source}: no such file; expected weights ({WEIGHTS})")
    if output.suffix != ".safetensors":
        raise SnnPerceptionError(f"{output}: a checkpoint ends in .safetensors, got {output.suffix or 'no suffix'!r}")
    if source.resolve() == output.resolve():
        raise SnnPerceptionError(f"{output}: is the source itself; name another file for the checkpoint")
    check_writable(output)


def _refuse_recording(source: Path, registry: Registry) -> None:
    from snn_perception.errors import SnnPerceptionError
    from snn_perception.events.recording import find_reader

    reader = find_reader(source, registry)
    if reader or source.is_dir():
        kind = f"is a recording ({reader})" if reader else "is a folder"
        raise SnnPerceptionError(f"{source}: {kind}; convert reads weights so far ({WEIGHTS}), not recordings")


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "source", result["source"]
    yield "sha256", result["sha256"]
    yield "importer", result["importer"]
    yield "tensors taken over", f"{result['matched']:,} ({result['parameters']:,} parameters)"
    yield "missing", ", ".join(result["missing"]) or "none"
    yield "unexpected", ", ".join(result["unexpected"]) or "none"
    for name, origin in result["defaults"].items():
        yield f"default: {name}", origin
    for note in result["notes"]:
        yield "note", note
    yield "checkpoint", result["output"]


if __name__ == "__main__":
    sys.exit(main())

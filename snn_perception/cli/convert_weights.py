"""The part of ``convert`` that turns an author's weights into a checkpoint of this project."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import print_json, print_rows

if TYPE_CHECKING:
    from snn_perception.registry import Registry

WEIGHTS = ".pt, .pth, .ckpt or .safetensors"


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that only weights have."""
    group.add_argument(
        "--importer", metavar="NAME", help="read the file as this importer does (default: the one that knows it)"
    )


def convert(arguments: argparse.Namespace, registry: Registry) -> None:
    """Write the checkpoint and tell what was taken over."""
    source, output = arguments.source, Path(arguments.output)
    _check_output(source, output)
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

    if output.suffix != ".safetensors":
        raise SnnPerceptionError(f"{output}: a checkpoint ends in .safetensors, got {output.suffix or 'no suffix'!r}")
    if source.resolve() == output.resolve():
        raise SnnPerceptionError(f"{output}: is the source itself; name another file for the checkpoint")
    check_writable(output)


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "source", result["source"]
    yield "sha256", result["sha256"]
    yield "importer", result["importer"]
    yield "tensors taken over", f"{result['matched']:,} ({result['parameters']:,} parameters)"
    yield "missing", ", ".join(result["missing"]) or "none"
    yield "unexpected", ", ".join(result["unexpected"]) or "none"
    for name, origin in result["defaults"].items():
        yield f"default: {name}", origin
    if result["windows"]:
        yield "trained on windows", ", ".join(f"{name}: {value}" for name, value in result["windows"].items())
    for note in result["notes"]:
        yield "note", note
    yield "checkpoint", result["output"]

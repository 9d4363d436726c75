"""``export``: write a model's step as one ONNX file with named states, for other programs and engines."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import EXIT_DONE, make_parser, positive_int, print_json, print_rows, registry_of, run

if TYPE_CHECKING:
    from snn_perception.engine.export import ExportReport


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_export, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "export",
        "Write one step of a model as an ONNX graph whose membranes are inputs and outputs, and a description beside "
        "it. The graph is compared with the model before it appears under its name.",
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint, shipped weights, or a preset (untrained weights)")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="M.onnx", help="the graph; its description is M.onnx.json"
    )
    parser.add_argument(
        "--no-fold", dest="fold", action="store_false", help="keep norms as operations of their own (slower)"
    )
    parser.add_argument(
        "--check-windows", type=positive_int, default=4, metavar="N", help="to compare, twice over (default: 4)"
    )
    return parser


def _export(arguments: argparse.Namespace) -> int:
    from snn_perception.cli.stages import told_stages
    from snn_perception.engine.export import export_onnx
    from snn_perception.runtime.models import open_model
    from snn_perception.whole_file import check_writable

    check_writable(arguments.output)
    model = open_model(arguments.model, registry_of(arguments))
    with told_stages(enabled=not arguments.json) as on_stage:
        report = export_onnx(
            model.detector,
            arguments.output,
            fold=arguments.fold,
            windows=arguments.check_windows,
            on_stage=on_stage,
        )
    values = _values(report, arguments.output)
    if arguments.json:
        print_json(values | {"model": arguments.model, "note": model.note})
        return EXIT_DONE
    print_rows(_rows(values, model.note))
    return EXIT_DONE


def _values(report: ExportReport, path: Path) -> dict[str, Any]:
    from snn_perception.engine.artifact import read_sidecar, sidecar_path

    sidecar = read_sidecar(path)
    return {
        "graph": str(path),
        "sidecar": str(sidecar_path(path)),
        "bytes": path.stat().st_size,
        "sha256": sidecar.sha256,
        "opset": sidecar.opset,
        "state_policy": sidecar.state_policy,
        "states": len(sidecar.states),
        "max_batch": sidecar.max_batch,
        "inputs": list(report.inputs),
        "outputs": list(report.outputs),
        "operators": report.operators,
        "check": {
            **asdict(report.parity),
            "state_effect": report.state_effect,
        },
    }


def _rows(values: dict[str, Any], note: str) -> list[tuple[str, str]]:
    check = values["check"]
    rows = [
        ("graph", f"{values['graph']} ({values['bytes'] / 1e6:.1f} MB, ONNX opset {values['opset']})"),
        ("description", values["sidecar"]),
        ("inputs", f"events, keep, active and {values['states']} membranes; 1 to {values['max_batch']} rows"),
        ("operators", ", ".join(f"{count} {name}" for name, count in sorted(values["operators"].items()))),
        (
            "compared",
            f"{check['windows']} windows with the model: raw outputs differ by at most {check['raw_error']:.1e}, "
            f"{check['flips']:.1e} of the neurons by a spike; the state changes outputs by {check['state_effect']:.2g}",
        ),
    ]
    return rows + ([("note", note)] if note else [])


if __name__ == "__main__":
    sys.exit(main())

"""``doctor``: is this installation in order, from package versions to a drive through the real node?"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import EXIT_DONE, EXIT_ERROR, make_parser, print_json, print_table, run

if TYPE_CHECKING:
    from snn_perception.doctor.finding import Bench, Check, Finding

_MARKS = {"ok": "ok", "warning": "WARNING", "failed": "FAILED", "skipped": "skipped"}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_doctor, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "doctor",
        "Check an installation: versions, GPU, compiled kernels, plugins, shipped weights, ROS 2, and a small "
        "synthetic drive through the model and through the real node. Exit code 1 if a check failed.",
    )
    parser.add_argument("--full", action="store_true", help="also train for some minutes, and see whether it learns")
    parser.add_argument(
        "--model", metavar="MODEL", help="run this: shipped weights (default: the first), a checkpoint or a preset"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="F.json", help="write the report here, with its digest")
    parser.add_argument(
        "--write-expected",
        type=Path,
        metavar="F.json",
        help="for maintainers: write what MODEL sees on the small drive, which later runs compare with",
    )
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from snn_perception.doctor.finding import Bench, examine
    from snn_perception.doctor.report import make_report, passed
    from snn_perception.whole_file import check_writable, whole_file
    from snn_perception.zoo import shipped

    for path in filter(None, (arguments.output, arguments.write_expected)):
        check_writable(path)
    with tempfile.TemporaryDirectory(prefix="snn_perception_doctor_") as folder, _status(arguments) as tell:
        model = arguments.model or next(iter(shipped()), None)
        bench = Bench(Path(folder), model, arguments.plugins, arguments.blocked)
        if arguments.write_expected:
            return _write_expected(arguments, bench)
        findings = list(examine(_checks(arguments, tell), bench, tell))
    report = make_report(findings, full=arguments.full)
    if arguments.output:
        with whole_file(arguments.output) as partial_path:
            partial_path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if arguments.json:
        print_json(report)
    else:
        _print(findings, report)
    return EXIT_DONE if passed(findings) else EXIT_ERROR


def _checks(arguments: argparse.Namespace, tell: Callable[[str], None]) -> Mapping[str, Check]:
    """Return the checks by name, in their order."""
    from snn_perception.doctor import learning, machine, model, node, software

    checks: dict[str, Check] = {
        "Python": software.python,
        "packages": software.packages,
        "torch": software.torch_build,
        "GPU": software.gpu,
        "spikingjelly": software.spikingjelly,
        "kernels": machine.kernels,
        "native kernels": machine.native_kernels,
        "disk": machine.disk,
        "plugins": software.plugins,
        "weights": model.weights,
        "drive": model.drive,
        "model": model.offline,
        "as released": model.released,
        "ROS 2": node.ros,
        "DDS": node.dds,
        "node": node.live,
    }
    if arguments.full:
        checks["learning"] = partial(
            learning.learning, on_step=lambda done, total: tell(f"learning, step {done:,} of {total:,}")
        )
    return checks


def _write_expected(arguments: argparse.Namespace, bench: Bench) -> int:
    """Run the model on the small drive and keep what it sees."""
    from snn_perception.doctor import model, software
    from snn_perception.doctor.finding import examine
    from snn_perception.errors import SnnPerceptionError

    needed = {"plugins": software.plugins, "drive": model.drive, "model": model.offline}
    for found in examine(needed, bench):
        if found.status in ("failed", "skipped"):
            raise SnnPerceptionError(f"{found.check}: {found.told}; nothing was written")
    count = model.write_release(bench, arguments.write_expected)
    told = {"expected": str(arguments.write_expected), "model": bench.model, "detections": count}
    print_json(told) if arguments.json else print(f"{count} detections of {bench.model} in {arguments.write_expected}")
    return EXIT_DONE


def _print(findings: list[Finding], report: dict[str, Any]) -> None:
    rows = ((found.check, _MARKS[found.status], found.told, found.remedy) for found in findings)
    print_table(("check", "result", "what was found", "what to do"), rows)
    counts = ", ".join(f"{count} {status}" for status, count in report["counts"].items() if count)
    verdict = "in order" if report["passed"] else "NOT in order"
    print(f"{verdict}: {counts}, in {report['seconds']:.0f} s; report {report['sha256'][:16]}")


@contextmanager
def _status(arguments: argparse.Namespace) -> Iterator[Callable[[str], None]]:
    """Yield what tells of the check that is under way, on stderr where that is a terminal."""
    if arguments.json or not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda name: status.update(f"checking: {name}")


if __name__ == "__main__":
    sys.exit(main())

"""The part of ``convert`` that writes all recordings of a folder, or several: one recording is one unit of work."""

from __future__ import annotations

import argparse
import filecmp
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import add_work_options, print_json, print_rows, print_table, progress_bar, registry_of

if TYPE_CHECKING:
    from snn_perception.cli.convert_plan import Found, Plan
    from snn_perception.cli.convert_unit import ConvertUnit, Job

_LONGEST_TABLE = 40  # rows; beyond it only failures are listed
_SHOWN = 3

log = logging.getLogger(__name__)


def add_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that only many recordings have."""
    add_work_options(group)
    group.add_argument("--force", action="store_true", help="convert all again, also what an earlier run has finished")


def given_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of many recordings that were given, as they are spelt."""
    given = {
        "--workers": arguments.workers is not None,
        "--executor": arguments.executor != "processes",
        "--force": arguments.force,
    }
    return [option for option, is_given in given.items() if is_given]


def convert(arguments: argparse.Namespace) -> None:
    """Write the recordings and tell what went over.

    A recording that cannot be converted does not stop the others. What an earlier run has finished stays as it is,
    where neither source nor options have changed.

    Raises:
        SnnPerceptionError: in the end, naming the recordings that failed; at once if nothing can be written.
    """
    from snn_perception.cli.convert_unit import ConvertUnit

    started = perf_counter()
    job = _job_of(arguments)
    plan = _plan_of(arguments, job)
    with _alone_in(job):
        copied = _copy(plan.others, job.destination)
        units = [ConvertUnit(job, recording) for recording in plan.recordings]
        results = _results(arguments, units)
    report = _report(arguments, plan, job, results, copied)
    report["seconds"] = round(perf_counter() - started, 3)
    if arguments.json:
        print_json(report)
    else:
        _print(report)
    _raise_if_failed(report)


def _job_of(arguments: argparse.Namespace) -> Job:
    from snn_perception.cli.convert_recording import DESTINATIONS, Reading, options_of, refuse_foreign_options
    from snn_perception.cli.convert_unit import Job
    from snn_perception.errors import SnnPerceptionError

    destination = Path(arguments.output)
    if arguments.importer is not None:
        raise SnnPerceptionError(f"{arguments.sources[0]}: --importer is for weights, one file at a time")
    if arguments.to is None:
        raise SnnPerceptionError(
            f"{destination}: name the format of many recordings with --to; of one it is told by DST: {DESTINATIONS}"
        )
    if destination.exists() and not destination.is_dir():
        raise SnnPerceptionError(f"{destination}: is a file; many recordings go to a folder")
    refuse_foreign_options(arguments, arguments.to)
    for source in arguments.sources:
        inside = destination.resolve()
        if source.is_dir() and (source.resolve() == inside or source.resolve() in inside.parents):
            raise SnnPerceptionError(f"{destination}: lies within the source {source}; choose a folder beside it")
    return Job(
        destination,
        arguments.to,
        Reading.asked_for(arguments),
        options_of(arguments),
        tuple(arguments.plugins),
        tuple(arguments.blocked),
        arguments.force,
    )


def _plan_of(arguments: argparse.Namespace, job: Job) -> Plan:
    from functools import cache

    from snn_perception.cli.convert_plan import plan_of
    from snn_perception.discovery import load_registry
    from snn_perception.events.transfer import FORMATS

    suffixes = FORMATS[job.format].suffixes
    core = load_registry(arguments.plugins, blocked=[], installed=False)
    every = cache(lambda: registry_of(arguments))
    return plan_of(arguments.sources, suffixes[0] if suffixes else "", core, every, job.reading.reader)


def _results(arguments: argparse.Namespace, units: list[ConvertUnit]) -> list[dict[str, Any]]:
    """Return what became of each recording, in the order of the names."""
    from snn_perception.cli.convert_unit import convert_unit
    from snn_perception.work import make_executor

    arguments.resumable = True
    finished = [unit.finished() for unit in units]
    to_do = [unit for unit, result in zip(units, finished, strict=True) if result is None]
    with (
        make_executor(arguments.executor if len(to_do) > 1 else "serial", arguments.workers) as executor,
        progress_bar(f"{len(to_do)} recordings", enabled=not arguments.json) as advance,
    ):
        made = executor.map(convert_unit, to_do, on_done=advance)
        return [
            {"name": unit.name, "status": "skipped", **result} if result is not None else next(made)
            for unit, result in zip(units, finished, strict=True)
        ]


@contextmanager
def _alone_in(job: Job) -> Iterator[None]:
    """Make the destination and keep other runs out of it; what an earlier one has left half done is removed.

    Raises:
        SnnPerceptionError: if the folder cannot be made, or another run is at work in it.
    """
    from snn_perception.cli.convert_unit import RECORD
    from snn_perception.held_folder import held_folder
    from snn_perception.whole_file import cannot_write

    record = job.destination / RECORD
    try:
        record.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(job.destination, error) from error
    with held_folder(record, "another convert"):
        shutil.rmtree(job.partial, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(job.partial, ignore_errors=True)


def _copy(others: tuple[Found, ...], destination: Path) -> list[str]:
    """Copy files unchanged, with their times; return the names of those that were not there already."""
    from snn_perception.whole_file import cannot_write, whole_file

    copied = []
    for other in others:
        target = destination / other.target
        if target.is_file() and filecmp.cmp(other.path, target, shallow=False):
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as temporary:
                shutil.copyfile(other.path, temporary)
                shutil.copystat(other.path, temporary)
        except OSError as error:
            raise cannot_write(target, error) from error
        copied.append(other.target)
    return copied


def _report(
    arguments: argparse.Namespace, plan: Plan, job: Job, results: list[dict[str, Any]], copied: list[str]
) -> dict[str, Any]:
    by_status: dict[str, list[dict[str, Any]]] = {"converted": [], "skipped": [], "failed": []}
    for result in results:
        by_status[result["status"]].append({key: value for key, value in result.items() if key != "status"})
    whole = by_status["converted"] + by_status["skipped"]
    return {
        "sources": [str(source) for source in arguments.sources],
        "output": str(job.destination),
        "format": job.format,
        "recordings": len(results),
        "events": sum(result["events"] for result in whole),
        "duration_us": sum(result["duration_us"] for result in whole),
        "bytes_in": sum(result["bytes_in"] for result in whole),
        "bytes_out": sum(result["bytes_out"] for result in whole),
        **by_status,
        "other_files": [other.target for other in plan.others],
        "copied": copied,
        "left_out": list(plan.left_out),
    }


def _print(report: dict[str, Any]) -> None:
    rows = [
        (result["name"], "failed" if status == "failed" else status, *_cells(result))
        for status in ("converted", "skipped", "failed")
        for result in report[status]
        if report["recordings"] <= _LONGEST_TABLE or status == "failed"
    ]
    if rows:
        print_table(("recording", "result", "events", "seconds", "MB", "note"), sorted(rows))
    print_rows(_totals(report))


def _cells(result: dict[str, Any]) -> tuple[str, str, str, str]:
    if "error" in result:
        return "", "", "", result["error"]
    note = f"{result['losses']} losses in the source" if result["losses"] else ""
    return (
        f"{result['events']:,}",
        f"{result['duration_us'] / 1e6:.1f}",
        f"{result['bytes_out'] / 1e6:.1f}",
        note,
    )


def _totals(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "written to", f"{report['output']} ({report['format']})"
    counts = [f"{len(report[status]):,} {status}" for status in ("converted", "skipped", "failed")]
    yield "recordings", f"{report['recordings']:,}: {', '.join(counts)}"
    yield "events", f"{report['events']:,} in {report['duration_us'] / 1e6:,.1f} s of sensor time"
    yield "bytes", f"{report['bytes_in']:,} read, {report['bytes_out']:,} written"
    yield "other files", f"{len(report['other_files']):,}, of which {len(report['copied']):,} copied now"
    for line in report["left_out"]:
        yield "left out", line
    yield "took", f"{report['seconds']:.1f} s"


def _raise_if_failed(report: dict[str, Any]) -> None:
    from snn_perception.errors import SnnPerceptionError

    failed = report["failed"]
    if not failed:
        return
    told = "; ".join(f"{result['name']}: {result['error']}" for result in failed[:_SHOWN])
    more = f"; and {len(failed) - _SHOWN} more, which --json lists" if len(failed) > _SHOWN else ""
    raise SnnPerceptionError(f"{len(failed)} of {report['recordings']} recordings could not be converted: {told}{more}")

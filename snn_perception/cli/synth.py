"""``synth -o DIR``: make a synthetic driving set; ``--from MANIFEST`` makes it again; ``--check DIR`` verifies it;
``--ladder DIR`` measures what simple detectors score on it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import (
    EXIT_USAGE,
    add_work_options,
    make_parser,
    positive_int,
    print_json,
    print_table,
    progress_lines,
    run,
)

if TYPE_CHECKING:
    from snn_perception.synth.manifest import Manifest, RecordingEntry
    from snn_perception.synth.sizes import SetRequest

# The tables in synth/sizes.py decide; these are for --help, which shall not wait for NumPy.
SIZES = ("tiny", "small", "full")
FORMATS = ("gen1", "one_mpx")
OF_A_NEW_SET = ("size", "format", "seed", "limit", "frames_per_s", "duplicates")
OF_A_LADDER = ("split", "dense", "model")

EXPLANATION = """\
synth makes a driving set with labels to train and evaluate on: synthetic streets, cars and pedestrians as an event
camera would see them, in the files of GEN1 (304x240) or 1Mpx (1280x720).

  synth -o DIR --size tiny     4 recordings of 3 s: a minute, to try things
  synth -o DIR                 small: 30 recordings of 20 s
  synth -o DIR --size full     280 recordings of 60 s: hours, tens of GB; a run that is stopped goes on where it was
  synth --from DIR/manifest.json -o OTHER     the same set again, bit for bit
  synth --check DIR            are all files as they were made?
  synth --ladder DIR           what do a blind, a simple and an all-knowing detector score on it?

The set opens as gen1:DIR or one_mpx:DIR. Results on it are never comparable with results on the real sets."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    if not (sys.argv[1:] if argv is None else argv):
        print(EXPLANATION, file=sys.stderr)
        return EXIT_USAGE
    return run(_synth, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("synth", "Make a synthetic driving set, with labels, in the files of GEN1 or 1Mpx.")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the set; what is there is kept")
    parser.add_argument("--size", choices=SIZES, help="4, 30 or 280 recordings of 3, 20 or 60 s (default: small)")
    parser.add_argument("--format", choices=FORMATS, help="304x240 as GEN1, or 1280x720 as 1Mpx (default: gen1)")
    parser.add_argument("--seed", type=int, metavar="N", help="sets of two seeds share no drive (default: 0)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="at most N recordings of each split")
    parser.add_argument("--frames-per-s", type=positive_int, metavar="N", help="rendered frames (default: 250)")
    parser.add_argument(
        "--duplicates", action="store_true", default=None, help="write events at x > 255 twice, as GEN1 has them"
    )
    add_work_options(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from", dest="manifest", type=Path, metavar="MANIFEST", help="make this set again")
    source.add_argument("--check", type=Path, metavar="DIR", help="compare the files of a set with its manifest")
    source.add_argument(
        "--ladder", type=Path, metavar="DIR", help="score simple detectors on a set (-o FILE.json or FILE.md keeps it)"
    )
    ladder = parser.add_argument_group("with --ladder")
    ladder.add_argument("--split", metavar="NAME", help="which split to score on (default: test)")
    ladder.add_argument("--dense", type=Path, metavar="CKPT", help="checkpoint of the rung 'dense CNN'")
    ladder.add_argument(
        "--model", type=Path, action="append", metavar="CKPT", help="checkpoint to put beside the ladder (repeatable)"
    )
    return parser


def _synth(arguments: argparse.Namespace) -> int | None:
    foreign, of_a_ladder = _given(arguments, OF_A_NEW_SET), _given(arguments, OF_A_LADDER)
    if arguments.ladder is not None:
        return _ladder(arguments, foreign)
    if of_a_ladder:
        return _usage(f"{', '.join(of_a_ladder)} go with --ladder DIR")
    if arguments.check is not None:
        return _check(arguments, [*foreign, *(["-o"] if arguments.output is not None else [])])
    if arguments.output is None:
        return _usage("name a folder for the set: -o DIR")
    if arguments.manifest is not None and foreign:
        return _usage(f"--from takes no {', '.join(foreign)}: the manifest says it")
    _make(arguments)
    return None


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Return which of these options were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]


def _usage(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USAGE


def _check(arguments: argparse.Namespace, foreign: list[str]) -> int | None:
    if foreign:
        return _usage(f"--check takes no {', '.join(foreign)}")
    from snn_perception.synth.generate import check

    with _progress("checking", enabled=not arguments.json) as advance:
        manifest = check(arguments.check, advance)
    _tell(
        arguments, manifest, {"folder": str(arguments.check), "checked": sum(len(r.files) for r in manifest.recordings)}
    )
    return None


def _ladder(arguments: argparse.Namespace, foreign: list[str]) -> int | None:
    if foreign:
        return _usage(f"--ladder takes no {', '.join(foreign)}")
    from snn_perception.cli.synth_ladder import print_ladder

    arguments.split, arguments.model = arguments.split or "test", arguments.model or []
    print_ladder(arguments)
    return None


def _make(arguments: argparse.Namespace) -> None:
    from snn_perception.synth.generate import generate, regenerate
    from snn_perception.synth.sizes import amount, bytes_needed, plan_set

    arguments.resumable = True
    began = time.perf_counter()
    pool = {"executor": arguments.executor, "workers": arguments.workers}
    with _progress("synth", enabled=not arguments.json) as advance:
        if arguments.manifest is not None:
            made = regenerate(arguments.manifest, arguments.output, advance=advance, **pool)
        else:
            request = _request(arguments)
            needed = amount(bytes_needed(plan_set(request, arguments.limit)))
            print(f"a set of about {needed} in {arguments.output}", file=sys.stderr)
            made = generate(arguments.output, request, limit=arguments.limit, advance=advance, **pool)
    seconds = time.perf_counter() - began
    _tell(arguments, made.manifest, {"folder": str(made.folder), "made": made.new, "took_s": round(seconds, 1)})


def _request(arguments: argparse.Namespace) -> SetRequest:
    from snn_perception.synth.sizes import SetRequest

    names = ("size", "format", "seed", "frames_per_s", "duplicates")
    return SetRequest(**{name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None})


def _tell(arguments: argparse.Namespace, manifest: Manifest, facts: dict[str, Any]) -> None:
    splits = {name: _told(entries) for name, entries in _by_split(manifest).items()}
    dataset = {"dataset": manifest.generator, "complete": manifest.complete, **facts}
    if arguments.json:
        print_json({**dataset, "size": manifest.request.size, "seed": manifest.request.seed, "splits": splits})
        return
    kinds = sorted({kind for split in splits.values() for kind in split["boxes"]})
    columns = ("split", "recordings", "seconds", "events", "Mev/s", *kinds, "boxes per time", "pass the size filter")
    print_table(columns, (_row(name, split, kinds) for name, split in splits.items()))
    done = f", {_made_text(facts, len(manifest.recordings))}" if "made" in facts else ""
    checked = f", {facts['checked']} files are as the manifest says" if "checked" in facts else ""
    rest = "" if manifest.complete else ", not all of its recordings"
    print(f"{manifest.generator}, {manifest.request.size}{rest}, in {facts['folder']}{done}{checked}")


def _made_text(facts: dict[str, Any], recordings: int) -> str:
    if not facts["made"]:
        return f"all {recordings} recordings were there already"
    return f"{facts['made']} recordings made in {facts['took_s']:.0f} s"


def _by_split(manifest: Manifest) -> dict[str, list[RecordingEntry]]:
    splits: dict[str, list[RecordingEntry]] = {}
    for entry in manifest.recordings:
        splits.setdefault(entry.split, []).append(entry)
    return splits


def _told(entries: list[RecordingEntry]) -> dict[str, Any]:
    seconds, events = sum(entry.duration_us for entry in entries) / 1e6, sum(entry.events for entry in entries)
    boxes = {kind: sum(entry.boxes[kind] for entry in entries) for kind in entries[0].boxes}
    times, count = sum(entry.label_times for entry in entries), sum(boxes.values())
    return {
        "recordings": len(entries),
        "robustness": sum(entry.robustness for entry in entries),
        "seconds": seconds,
        "events": events,
        "mev_per_s": round(events / seconds / 1e6, 3),
        "on_share": round(sum(entry.on for entry in entries) / max(events, 1), 3),
        "boxes": boxes,
        "label_times": times,
        "boxes_per_time": round(count / max(times, 1), 2),
        "passing_share": round(sum(entry.passing for entry in entries) / max(count, 1), 3),
    }


def _row(name: str, split: dict[str, Any], kinds: list[str]) -> tuple[str, ...]:
    return (
        name,
        str(split["recordings"]),
        f"{split['seconds']:.0f}",
        f"{split['events']:,}",
        f"{split['mev_per_s']:.2f}",
        *(f"{split['boxes'].get(kind, 0):,}" for kind in kinds),
        f"{split['boxes_per_time']:.1f}",
        f"{split['passing_share']:.0%}",
    )


@contextmanager
def _progress(title: str, *, enabled: bool) -> Iterator[Callable[[int, int, int, int], None]]:
    """Yield ``advance(recordings done, of, us done, of)``, drawn on stderr as `progress_bar` does it."""
    if not (enabled and sys.stderr.isatty()):
        tell = progress_lines(title) if enabled else lambda done, total: None
        yield lambda done, total, done_us, total_us: tell(done_us, total_us)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    counts = TextColumn("{task.fields[counts]}")
    columns = (TextColumn(title), BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None, counts="")

        def advance(done: int, total: int, done_us: int, total_us: int) -> None:
            told = f"{done}/{total} recordings, {done_us / 1e6:.0f}/{total_us / 1e6:.0f} s"
            progress.update(task, completed=done_us, total=total_us, counts=told)

        yield advance


if __name__ == "__main__":
    sys.exit(main())

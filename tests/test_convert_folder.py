"""All recordings of a folder: what is found and copied, what is done once, and what an interruption leaves."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from snn_perception.cli import convert_unit
from snn_perception.cli.convert import main
from snn_perception.data.dataset import open_dataset
from snn_perception.events import transfer
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.events.transfer import convert_recording
from snn_perception.held_folder import held_folder
from snn_perception.whole_file import cannot_write
from tests.dataset_support import GEN1, gen1_tree, paired, rvt_sequence, some_events
from tests.paths import ROOT

WAITING = ROOT / "tests" / "plugins" / "waiting.py"
SUFFIXES = {"dat": ".dat", "h5": ".h5", "raw": ".raw", "bag": ""}
PATIENCE_S = 60.0


def drive(path: Path, seed: int = 0, count: int = 3000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dat(path, [some_events(GEN1, count=count, seed=seed)], GEN1)
    return path


@pytest.fixture
def source(tmp_path, registry):
    """A tree with recordings of every kind, labels, and what else lies in such folders."""
    folder = tmp_path / "source"
    paired(folder / "train", "one")
    for seed, name in enumerate(("train/two_td.dat", "train/deep/er/three.dat", "val/four_td.dat")):
        drive(folder / name, seed + 1)
    for name in ("five.raw", "six.h5", "seven"):
        convert_recording(
            open_recording(drive(tmp_path / "made.dat", len(name)), registry), folder / "val" / name, registry=registry
        )
    (folder / "manifest.json").write_text('{"dataset": "some"}')
    return folder


def told(capsys, *arguments, code=0):
    """Return what ``convert --json`` prints, and its stderr."""
    assert main([*map(str, arguments), "--json"]) == code
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: "), err
    return err.strip()


def files_of(folder: Path) -> dict[str, str]:
    """Digests of all files but the record of what is done."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in names.items()
        if not name.startswith(".converted/")
    }


def times_of(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files_of(folder)}


def rows(path, registry):
    events = list(transfer.open_recording(path, registry).chunks())
    return [np.concatenate([getattr(piece, name) for piece in events]).tolist() for name in "txyp"]


# ---- the same, however it is run


@pytest.mark.parametrize("kind", SUFFIXES)
def test_any_executor_and_number_of_workers_write_the_same_bytes(kind, source, tmp_path, capsys):
    ways = {"serial": ["--executor", "serial"], "one": ["--workers", 1], "two": ["--workers", 2]}
    written = {}
    for way, options in ways.items():
        report, err = told(capsys, source, "-o", tmp_path / way, "--to", kind, *options)
        assert (len(report["converted"]), report["failed"], report["skipped"], err) == (7, [], [], "")
        written[way] = files_of(tmp_path / way)
        assert report["events"] == 400 + 6 * 3000
    assert written["serial"] == written["one"] == written["two"]
    recordings = {result["name"]: result["output"] for result in report["converted"]}
    assert {name: str(Path(output).relative_to(tmp_path / "two")) for name, output in recordings.items()} == {
        name: f"{name.removesuffix('.dat').removesuffix('.raw').removesuffix('.h5')}{SUFFIXES[kind]}"
        for name in recordings
    }


def test_a_data_set_stays_one_in_another_format(tmp_path, registry, capsys):
    gen1_tree(tmp_path / "gen1")
    report, _ = told(capsys, tmp_path / "gen1", "-o", tmp_path / "out", "--to", "hdf5", "--executor", "serial")
    assert report["format"] == "h5" and len(report["other_files"]) == len(report["copied"]) == 8
    for name in report["copied"]:
        assert name.endswith("_bbox.npy")
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "gen1" / name).read_bytes()
        assert (tmp_path / "out" / name).stat().st_mtime_ns == (tmp_path / "gen1" / name).stat().st_mtime_ns
    before, after = (open_dataset(f"gen1:{tmp_path / name}", "test", registry) for name in ("gen1", "out"))
    assert len(before) == len(after) == 1 and after[0].path.suffix == ".h5"
    ours, theirs = after[0].events(registry), before[0].events(registry)
    assert len(ours) == 400
    assert all((getattr(ours, name) == getattr(theirs, name)).all() for name in "txyp")
    labels = after[0].labels()
    assert len(labels) == len(before[0].labels()) > 0 and (labels.xywh == before[0].labels().xywh).all()


def test_single_recordings_give_the_same_as_the_folder(source, tmp_path, capsys):
    told(capsys, source, "-o", tmp_path / "out", "--to", "raw", "--executor", "serial")
    told(capsys, source / "val" / "four_td.dat", "-o", tmp_path / "four.raw")
    assert (tmp_path / "four.raw").read_bytes() == (tmp_path / "out" / "val" / "four_td.raw").read_bytes()


# ---- what is found


def test_what_lies_beside_recordings(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("snn_perception.cli.convert_plan.LARGEST_COPY_BYTES", 1 << 20)
    rvt_sequence(source / "preprocessed")
    (source / "film.mp4").write_bytes(bytes((1 << 20) + 1))
    (source / ".hidden.dat").write_bytes(b"no")
    (source / "val" / "round").symlink_to(source)
    os.mkfifo(source / "pipe")
    report, _ = told(capsys, source, "-o", tmp_path / "out", "--to", "dat", "--executor", "serial")
    assert report["recordings"] == len(report["converted"]) == 7
    assert report["copied"] == ["manifest.json", "train/one_bbox.npy"]
    assert [line.partition(":")[0] for line in report["left_out"]] == ["film.mp4", "pipe", "preprocessed"]
    assert "too large to be copied" in report["left_out"][0] and "holds no events" in report["left_out"][2]
    assert "film.mp4" not in files_of(tmp_path / "out")


def test_several_sources_keep_their_names(source, tmp_path, registry, capsys):
    sources = [source / "train" / "one_td.dat", source / "val" / "seven", source / "train" / "deep"]
    report, _ = told(capsys, *sources, "-o", tmp_path / "new" / "out", "--to", "h5", "--executor", "serial")
    assert [result["name"] for result in report["converted"]] == ["deep/er/three.dat", "one_td.dat", "seven"]
    out = tmp_path / "new" / "out"
    assert set(files_of(out)) == {"deep/er/three.h5", "one_td.h5", "seven.h5", "one_bbox.npy"}
    assert rows(out / "one_td.h5", registry) == rows(sources[0], registry)


def test_a_plugin_reads_what_the_core_does_not_know(tmp_path, registry, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.waiting").touch()
    (tmp_path / "source" / "a.waiting.go").touch()
    drive(tmp_path / "source" / "b.dat")
    options = ["--plugin", WAITING, "--executor", "serial"]
    report, _ = told(capsys, tmp_path / "source", "-o", tmp_path / "out", "--to", "raw", *options)
    assert [(result["name"], result["events"]) for result in report["converted"]] == [
        ("a.waiting", 800_000),
        ("b.dat", 3000),
    ]
    again, _ = told(
        capsys, tmp_path / "source", "-o", tmp_path / "only", "--to", "raw", "--reader", "waiting", *options
    )
    assert [result["name"] for result in again["converted"]] == ["a.waiting"]
    assert files_of(tmp_path / "only")["a.raw"] == files_of(tmp_path / "out")["a.raw"]


# ---- faults


@pytest.mark.parametrize("way", [["--executor", "serial"], ["--workers", "2"]])
def test_a_faulty_recording_does_not_stop_the_others(way, source, tmp_path, capsys):
    (source / "train" / "bad_td.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (source / "val" / "bad.raw").write_bytes(b"not a header")
    report, err = told(capsys, source, "-o", tmp_path / "out", "--to", "dat", *way, code=1)
    assert len(report["converted"]) == 7
    assert [failed["name"] for failed in report["failed"]] == ["train/bad_td.h5", "val/bad.raw"]
    assert err.startswith("error: 2 of 9 recordings could not be converted: train/bad_td.h5: ")
    assert "val/bad.raw: " in err and len(err.splitlines()) == 1
    assert all(str(tmp_path) in failed["error"] and ".converted" not in failed["error"] for failed in report["failed"])
    assert not (tmp_path / "out" / "train" / "bad_td.dat").exists()
    drive(source / "val" / "bad.raw").replace(source / "val" / "bad.dat")
    (source / "train" / "bad_td.h5").unlink()
    report, _ = told(capsys, source, "-o", tmp_path / "out", "--to", "dat", *way)
    assert [result["name"] for result in report["converted"]] == ["val/bad.dat"] and len(report["skipped"]) == 7


def test_a_full_disk_stops_the_run(source, tmp_path, capsys, monkeypatch):
    asked = []

    def is_full(recording, path, **options):
        asked.append(path)
        raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device")) from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(transfer, "convert_recording", is_full)
    error = refused(capsys, source, "-o", tmp_path / "out", "--to", "dat", "--executor", "serial")
    assert f"{tmp_path / 'out' / 'train' / 'deep' / 'er' / 'three.dat'}: cannot be written: No space left" in error
    assert len(asked) == 1 and set(files_of(tmp_path / "out")) == {"manifest.json", "train/one_bbox.npy"}


def test_what_cannot_be_done_is_told_first(source, tmp_path, capsys):
    out = tmp_path / "out"
    error = refused(capsys, source, "-o", out)
    assert "is a folder whose folders hold recordings" in error and "--to dat|h5|raw|bag -o FOLDER" in error
    assert "name the format of many recordings with --to" in refused(
        capsys, source / "train", source / "val", "-o", out
    )
    assert "lies within the source" in refused(capsys, source, "-o", source / "new", "--to", "h5")
    assert "lies within the source" in refused(capsys, source, "-o", source, "--to", "h5")
    assert "is a file; many recordings go to a folder" in refused(
        capsys, source, "-o", source / "manifest.json", "--to", "h5"
    )
    assert "--storage is for bag, not for dat" in refused(capsys, source, "-o", out, "--to", "dat", "--storage", "mcap")
    assert "none: no such file or folder" in refused(capsys, source, source / "none", "-o", out, "--to", "dat")
    assert "manifest.json: not a recording" in refused(
        capsys, source / "manifest.json", source / "val", "-o", out, "--to", "h5"
    )
    (tmp_path / "empty").mkdir()
    assert "empty: holds no recording" in refused(capsys, tmp_path / "empty", "-o", out, "--to", "dat")
    assert "--workers is for a folder of recordings" in refused(
        capsys, source / "val" / "five.raw", "-o", tmp_path / "five.dat", "--workers", 2
    )
    assert "--importer is for weights" in refused(
        capsys, source / "train", source / "val", "-o", out, "--to", "dat", "--importer", "some"
    )
    drive(source / "val" / "five.dat")
    error = refused(capsys, source, "-o", out, "--to", "h5")
    assert "five.dat and " in error and "five.raw would both become val/five.h5" in error
    assert "unknown event_reader 'none'" in refused(capsys, source, "-o", out, "--to", "h5", "--reader", "none")
    assert not out.exists()


# ---- once is enough


def test_what_is_done_is_left_alone(source, tmp_path, capsys):
    out = tmp_path / "out"
    command = [source, "-o", out, "--to", "raw", "--executor", "serial"]
    first, _ = told(capsys, *command)
    before = times_of(out)
    again, _ = told(capsys, *command)
    assert len(again["skipped"]) == 7 and again["converted"] == again["copied"] == []
    assert again["skipped"] == first["converted"] and times_of(out) == before

    drive(source / "val" / "four_td.dat", seed=77)  # its source changes
    (out / "train" / "two_td.raw").write_bytes(b"cut")  # its output is damaged
    (out / "val" / "five.raw").unlink()
    third, _ = told(capsys, *command)
    redone = {"train/two_td.dat", "val/five.raw", "val/four_td.dat"}
    assert {result["name"] for result in third["converted"]} == redone
    after = times_of(out)
    assert {name for name in after if after[name] != before[name]} == {
        "train/two_td.raw",
        "val/five.raw",
        "val/four_td.raw",
    }
    other, _ = told(capsys, *command, "--to-s", "0.5")  # other options
    assert len(other["converted"]) == 7 and 0 < other["events"] < first["events"]
    forced, _ = told(capsys, *command, "--to-s", "0.5", "--force")
    assert len(forced["converted"]) == 7
    (source / "manifest.json").write_text('{"dataset": "other"}')
    assert told(capsys, *command, "--to-s", "0.5")[0]["copied"] == ["manifest.json"]


def test_bags_are_replaced_where_they_are_our_own(source, tmp_path, capsys):
    out = tmp_path / "out"
    command = [source, "-o", out, "--to", "bag", "--executor", "serial"]
    told(capsys, *command)
    first = files_of(out)
    told(capsys, *command, "--storage", "mcap")
    assert {name.rpartition(".")[2] for name in files_of(out) if "metadata" not in name} == {"mcap", "npy", "json"}
    told(capsys, *command, "--force")
    assert files_of(out) == first
    for entry in (out / ".converted" / "ledger").iterdir():  # as if someone else had put the bags there
        entry.unlink()
    report, err = told(capsys, *command, code=1)
    assert len(report["failed"]) == 7 and "exists already; remove it, or replace it with --force" in err
    assert files_of(out) == first
    (out / "val" / "four_td").rename(out / "elsewhere")
    (out / "val" / "four_td").mkdir()
    (out / "val" / "four_td" / "notes.txt").write_text("mine")
    report, err = told(capsys, *command, "--force", code=1)
    assert [failed["name"] for failed in report["failed"]] == ["val/four_td.dat"] and "is a folder" in err
    assert (out / "val" / "four_td" / "notes.txt").read_text() == "mine"


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_where_it_stopped(number, tmp_path, capsys):
    """Two workers: one has done its recordings, the other is in the middle of a file, when all are ended at once."""
    source, out = tmp_path / "source", tmp_path / "out"
    for seed, name in enumerate(("a.dat", "b.dat", "c.dat")):
        drive(source / name, seed)
    (source / "d.waiting").touch()
    drive(source / "e.dat", 9)
    command = [source, "-o", out, "--to", "h5", "--plugin", WAITING, "--workers", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "snn_perception", "convert", *map(str, command)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    partial = out / ".converted" / "partial"
    done = ["a.h5", "b.h5", "c.h5", "e.h5"]
    wait_for(lambda: sorted(path.name for path in out.glob("*.h5")) == done and any(partial.rglob("*")))
    before = times_of(out)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=PATIENCE_S)
    words = "interrupted; what is finished stays, the same command goes on from there\n"
    assert (process.returncode, err) == ((130, words) if number == signal.SIGINT else (-signal.SIGKILL, ""))
    assert sorted(files_of(out)) == done
    if number == signal.SIGKILL:
        assert any(partial.rglob("*")), "nobody was left to remove it"
    (source / "d.waiting.go").touch()
    report, _ = told(capsys, *command)
    assert [result["name"] for result in report["converted"]] == ["d.waiting"]
    assert [result["name"] for result in report["skipped"]] == ["a.dat", "b.dat", "c.dat", "e.dat"]
    assert {name: when for name, when in times_of(out).items() if name in before} == before
    assert not partial.exists()
    told(capsys, source, "-o", tmp_path / "straight", "--to", "h5", "--plugin", WAITING, "--executor", "serial")
    assert files_of(tmp_path / "straight") == files_of(out)


def test_two_runs_do_not_write_in_one_folder(source, tmp_path, capsys):
    out = tmp_path / "out"
    (out / ".converted").mkdir(parents=True)
    with held_folder(out / ".converted", "a test"):
        assert "another convert is at work in it" in refused(capsys, source, "-o", out, "--to", "dat")
    assert files_of(out) == {}
    told(capsys, source, "-o", out, "--to", "dat", "--executor", "serial")


def test_the_ledger_counts_for_nothing_without_the_output(source, tmp_path, capsys, monkeypatch):
    """As if the power went between the note and the file."""
    out = tmp_path / "out"
    command = [source, "-o", out, "--to", "dat", "--executor", "serial"]
    with monkeypatch.context() as patched:
        patched.setattr(convert_unit, "_put_in_place", lambda staged, output: None)
        told(capsys, *command)
    assert len(list((out / ".converted" / "ledger").iterdir())) == 7 and not list(out.rglob("*.dat"))
    report, _ = told(capsys, *command)
    assert len(report["converted"]) == 7 and len(list(out.rglob("*.dat"))) == 7


def test_the_table_names_each_recording(source, tmp_path, capsys):
    assert main([str(source), "-o", str(tmp_path / "out"), "--to", "dat", "--executor", "serial"]) == 0
    out = capsys.readouterr().out
    for text in ("train/one_td.dat", "val/seven", "converted", "recordings: 7: 7 converted", "other files: 2"):
        assert text in out

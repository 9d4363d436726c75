"""The fuzzing command, in short: every decoder and format, and that what it watches for is seen."""

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from snn_perception.errors import EventDataError
from snn_perception.events.dat import DatRecording
from snn_perception.types import SensorSize
from tests.paths import ROOT
from tools import fuzz_corpus, fuzz_files
from tools.fuzz_damage import damage
from tools.fuzz_files import FORMATS, file_inputs, read, read_annotation
from tools.fuzz_packets import DECODERS
from tools.fuzz_watch import BLOCK, Inputs, Row, watch, watch_apart

SHORT = 400  # inputs of each


def run_tool(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/fuzz.py", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_feeds_everything_and_writes_a_page(tmp_path):
    page = tmp_path / "fuzzing.md"
    done = run_tool("--count", str(SHORT), "--seed", "7", "-o", str(page), "--json", "--findings", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == [*DECODERS, *FORMATS]
    assert all(row["inputs"] == SHORT and not row["violations"] for row in rows.values())
    assert all(row["produced"] > SHORT / 20 for row in rows.values()), "damage must get past the headers"
    assert all(row["refused"] for name, row in rows.items() if name not in ("atis_bin", *DECODERS))
    text = page.read_text("utf-8")
    assert f"--count {SHORT} --seed 7" in text and f"| rosbag2_mcap | {SHORT} |" in text

    more = run_tool("--count", "50", "--formats", "dat", "-o", str(page), "--findings", str(tmp_path))
    assert more.returncode == 0, more.stderr
    text = page.read_text("utf-8")
    assert "| dat | 50 |" in text and f"| evt3 | {SHORT} |" in text, "other rows stay"


@pytest.mark.parametrize("group", fuzz_corpus.SAMPLES)
def test_samples_are_sound(tmp_path, group):
    for name, make in fuzz_corpus.SAMPLES[group].items():
        path = tmp_path / f"a.{name.rpartition('.')[2]}"
        path.write_bytes(make(tmp_path).data)
        held = fuzz_corpus.PACKETS if path.suffix in (".db3", ".mcap") else fuzz_corpus.EVENTS
        held = {"labels": fuzz_corpus.LABELS, "ncaltech_annotation": 5 + 3}.get(group, held)
        count, _ = read_annotation(path) if group == "ncaltech_annotation" else read(path)
        assert count == held, name


def test_the_same_seed_gives_the_same_files():
    def some(seed: str) -> list[bytes]:
        inputs = file_inputs("dat")
        inputs.seed(seed)
        found = []
        for _ in range(20):
            inputs.prepare()
            found.append(inputs.content())
        return found

    assert some("1") == some("1") != some("2")


def test_damage_leaves_little_as_it_was(tmp_path):
    sample = fuzz_corpus.dat(tmp_path)
    made = {damage(sample, (b"other",), random.Random(k)) for k in range(500)}
    assert len(made) > 450


# ---- readers that break their promises


class Outside(DatRecording):
    """States a smaller sensor than its events lie on."""

    def chunks(self, *args, **options):
        whole = list(super().chunks(*args, **options))
        self.size = SensorSize(1, 1)
        yield from whole


class OddPolarity(DatRecording):
    def chunks(self, *args, **options):
        for chunk in super().chunks(*args, **options):
            yield replace(chunk, p=chunk.p + np.uint8(1))


class Losing(DatRecording):
    """Loses an event without a word."""

    def chunks(self, *args, **options):
        for chunk in super().chunks(*args, **options):
            yield chunk.split(1)[1]


class OutOfOrder(DatRecording):
    """Says that times rise where they do not."""

    def chunks(self, *args, **options):
        for chunk in super().chunks(*args, **options):
            yield replace(chunk, t=chunk.t[::-1].copy(), in_order=True)


class NeverThere(DatRecording):
    """Finds nothing when it seeks."""

    def chunks(self, *args, start_us=None, **options):
        yield from super().chunks(*args, start_us=start_us and 1 << 60, **options)


@pytest.mark.parametrize("broken", [Outside, OddPolarity, Losing, OutOfOrder, NeverThere])
def test_broken_readers_are_caught(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.dat"
    path.write_bytes(fuzz_corpus.dat(tmp_path, start_us=5_000).data)
    read(path)
    monkeypatch.setattr(fuzz_files, "DatRecording", broken)
    with pytest.raises(AssertionError):
        read(path)


# ---- what is watched for


class Faulty(Inputs):
    """Does the wrong thing at one input."""

    name = "faulty"

    def __init__(self, at: int, wrong) -> None:
        self.at, self.wrong, self.number, self.kept = at, wrong, -(10**6), []  # a long time to wake up in

    def seed(self, text: str) -> None:
        self.number = int(text.rsplit(maxsplit=1)[-1]) * BLOCK - 1

    def prepare(self) -> None:
        self.number += 1

    def read(self) -> bool:
        if self.number >= self.at:
            self.wrong(self)
        return True

    def content(self) -> bytes:
        return str(self.number).encode()


def once(wrong):
    return lambda inputs: wrong(inputs) if inputs.number == inputs.at else None


def hoard(inputs: Faulty) -> None:
    inputs.kept.append(np.ones(1 << 20, np.uint8))


def leave_open(inputs: Faulty) -> None:
    inputs.kept.append(open(os.devnull))  # noqa: SIM115


def burn(inputs: Faulty) -> None:
    until = time.process_time() + 1.05
    while time.process_time() < until:
        pass


def refuse(text: str):
    def wrong(inputs: Faulty) -> None:
        raise EventDataError(text)

    return wrong


def watched(tmp_path, wrong, at=150, count=200, **options) -> Row:
    row = Row("faulty", "files", 0)
    return watch_apart(lambda: Faulty(at, wrong), row, count, findings=tmp_path, **options)


def crash(inputs: Faulty) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does, or as a segmentation fault would


WRONG = {
    "exception": (once(lambda _: {}["a"]), "input 150: KeyError"),
    "crash": (crash, "input 150: the process ended with exit code -9"),
    "slow": (once(burn), r"input 150: took 1\d\d\d ms"),
    "long error": (once(refuse("x" * 2000)), "input 150: .*too long"),
    "lines in an error": (once(refuse("a\nb")), "input 150: .*several lines"),
    "program": (once(lambda _: os.system("true")), "input 150: .*os.system"),
    "pickle": (once(lambda _: pickle.loads(pickle.dumps(Row))), "input 150: .*pickle.find_class"),
    "writing": (once(lambda _: open(ROOT / "never", "w").close()), "input 150: .*for writing"),
    "memory at once": (once(lambda _: np.empty(1 << 30, np.uint8)), "input 150: .*MemoryError"),
    "memory for good": (hoard, "memory grew by"),
    "files": (leave_open, r"\d+ files were left open"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_seen(tmp_path, name, capfd):
    wrong, message = WRONG[name]
    row = watched(tmp_path, wrong)
    assert row.violations, "nothing was seen"
    assert [found for found in row.violations if re.search(message, found)], row.violations
    assert not (ROOT / "never").exists()


def test_a_standstill_is_seen(tmp_path):
    row = watched(tmp_path, once(lambda _: time.sleep(60)), stall_s=1.0)
    assert row.violations == ["input 150: no end within 1 s"] and row.inputs == 151


def test_a_finding_is_kept(tmp_path, capfd):
    row = watched(tmp_path, once(lambda _: {}["a"]))
    kept = tmp_path / "faulty_0_150"
    assert kept.read_bytes() == b"150" and (row.inputs, row.produced) == (200, 199)
    assert str(kept) in capfd.readouterr().err


def test_nothing_wrong_is_nothing_seen(tmp_path):
    row = watched(tmp_path, once(refuse("refused")), count=3 * BLOCK)
    assert (row.inputs, row.refused, row.produced, row.violations) == (3 * BLOCK, 1, 3 * BLOCK - 1, [])


def test_a_late_input_comes_again():
    numbers = []
    row = watch(Faulty(10**9, None), Row("faulty", "files", 0), 5, start=2 * BLOCK + 7, tell=numbers.append)
    assert numbers[0] == 2 * BLOCK and numbers[-1] == 2 * BLOCK + 11 and row.inputs == len(numbers)

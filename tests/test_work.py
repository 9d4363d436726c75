"""Executors: order, bounds, errors, deaths, interruption; and the ledger of what is done."""

import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.work import Ledger, executor, file_identity, make_executor, processors_at_hand, unit_key
from tests import work_support as units
from tests.paths import ROOT

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def two():
    """One pool for most tests: that it serves them all is a test of its own."""
    with make_executor("processes", 2) as pool:
        yield pool


@pytest.fixture(params=["serial", "processes"])
def any_executor(request, two):
    return make_executor("serial") if request.param == "serial" else two


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids):
    end = time.monotonic() + units.PATIENCE_S
    while any(map(is_running, pids)):
        assert time.monotonic() < end, f"still there: {[pid for pid in pids if is_running(pid)]}"
        time.sleep(0.02)


# ---- order and bounds


def test_results_come_in_the_order_of_the_units(any_executor):
    told = []
    results = list(any_executor.map(units.square_slowly_at_first, range(9), on_done=lambda *now: told.append(now)))
    assert results == [number * number for number in range(9)]
    assert told == [(done, 9) for done in range(1, 10)]


def test_units_without_a_length_have_no_total(any_executor):
    told = []
    assert list(any_executor.map(units.square, iter([3]), on_done=lambda *now: told.append(now))) == [9]
    assert told == [(1, 0)]
    assert list(any_executor.map(units.square, [])) == []


def test_units_run_at_the_same_time_in_processes_of_their_own(two, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    pids = set(two.map(units.pid_when_both_run, [(a, b), (b, a)]))
    assert len(pids) == 2 and os.getpid() not in pids


def test_endless_units_are_taken_as_results_are(any_executor):
    taken = []

    def source():
        for number in count():
            taken.append(number)
            yield number

    results = any_executor.map(units.square, source())
    assert list(islice(results, 20)) == [number * number for number in range(20)]
    assert len(taken) <= 20 + 3 * any_executor.workers
    results.close()


def test_results_do_not_pile_up_behind_a_slow_unit(two, tmp_path):
    """While the first unit is at work the other worker does five units and no more, however many wait."""
    go, taken, at_release = tmp_path / "go", [], []

    def source():
        for number in range(100):
            taken.append(number)
            yield number, go

    def on_done(done, total):
        if done == 5:
            at_release.append(len(taken))
            go.touch()

    assert list(two.map(units.first_waits, source(), on_done=on_done)) == list(range(100))
    assert at_release == [6]


def test_results_are_the_same_for_any_executor_and_number_of_workers(two):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = list(make_executor("serial").map(units.sums, range(6)))
        assert len(set(expected)) == 6
        assert list(make_executor("processes", 1).map(units.sums, range(6))) == expected
        assert list(two.map(units.sums, range(6))) == expected
        with make_executor("processes", 3) as three:
            assert list(three.map(units.sums, range(6))) == expected
    finally:
        torch.set_num_threads(before)


def test_tensors_travel_as_values(two):
    for number, result in enumerate(two.map(units.tensor, range(1, 4)), start=1):
        assert torch.equal(result, units.tensor(number))


# ---- errors of units


def test_an_error_meant_for_people_stays_one_and_names_the_unit(any_executor):
    faulty = [("good", None), ("faulty.dat", EventDataError("is empty")), *[("good", None)] * 50]
    with pytest.raises(EventDataError, match=r"^faulty.dat: is empty$"):
        list(any_executor.map(units.fails_at, faulty))
    with pytest.raises(SnnPerceptionError, match=r"^/data/faulty.dat: is empty$"):  # not twice
        list(any_executor.map(units.fails_at, [("faulty.dat", EventDataError("/data/faulty.dat: is empty"))]))


def test_other_errors_keep_their_kind_and_name_the_unit_in_the_cause(any_executor):
    with pytest.raises(ZeroDivisionError) as caught:
        list(any_executor.map(units.fails_at, [("faulty.dat", ZeroDivisionError("no"))]))
    assert "in faulty.dat:" in str(caught.value.__cause__) and "work_support.py" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match=r"^unit 1: Odd: 1 and 2$"):
        list(any_executor.map(units.fails_oddly, [7]))
    with pytest.raises(RuntimeError, match=r"^unit 1: SystemExit: 3$"):
        list(any_executor.map(units.exits, [7]))
    with pytest.raises(SnnPerceptionError, match=r"^big: memory ran out; use fewer workers"):
        list(any_executor.map(units.fails_at, [("big", MemoryError())]))
    assert list(any_executor.map(units.square, [4])) == [16]


def test_an_error_cancels_the_rest_and_leaves_nothing_half_written(two, tmp_path):
    good, faulty = str(tmp_path / "good"), str(tmp_path / "faulty")
    with pytest.raises(EventDataError, match="faulty: nothing in it"):
        list(two.map(units.fails_when_other_is_half_written, [good, faulty, *["never"] * 20]))
    pid = int(Path(f"{good}.pid").read_text())
    assert not is_running(pid)
    assert [path.name for path in tmp_path.iterdir()] == ["good.pid"]


def test_what_cannot_travel_is_told(two):
    with pytest.raises(TypeError, match=r"the function cannot travel to a worker process: .*; use a function of a mod"):
        two.map(lambda number: number, [1])
    with pytest.raises(TypeError, match="unit 1 cannot travel to a worker process"):
        list(two.map(units.square, [lambda: 1]))
    with pytest.raises(TypeError, match="a result of type lock cannot travel to the parent") as caught:
        list(two.map(units.returns_a_lock, [1]))
    assert "in unit 1:" in str(caught.value.__cause__)
    assert list(two.map(partial(pow, 2), range(3))) == [1, 2, 4]


def test_an_iteration_that_nobody_finishes_frees_the_workers(two):
    first = two.map(units.square, range(100))
    assert next(first) == 0
    with pytest.raises(RuntimeError, match="at work already"):
        next(two.map(units.square, range(3)))
    first.close()
    assert list(two.map(units.square, range(3))) == [0, 1, 4]


# ---- deaths and interruptions


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "ended by SIGKILL; most likely memory ran out: use fewer workers"),
        (signal.SIGSEGV, "ended by SIGSEGV; a library crashed, most likely on this input"),
    ],
)
def test_a_worker_that_is_killed_is_told_with_its_unit(two, number, says):
    with pytest.raises(SnnPerceptionError, match=rf"^faulty.dat: its worker process was {says}"):
        list(two.map(units.dies, [("good", None), ("faulty.dat", number), *[("good", None)] * 20]))
    assert list(two.map(units.square, range(4))) == [0, 1, 4, 9]


def test_a_worker_that_leaves_is_told_with_its_unit(two):
    with pytest.raises(SnnPerceptionError, match=r"^unit 1: its worker process ended by itself, with exit code 7"):
        list(two.map(units.leaves, [1]))


SCRIPT = """
import sys
from snn_perception.work import make_executor
from tests.work_support import half_written

def main():
    with make_executor("processes", 2) as executor:
        list(executor.map(half_written, sys.argv[1:]))

{guard}main()
"""


def started(tmp_path, guard="if __name__ == '__main__': "):
    """Return a process with two workers that are in the middle of a file each, and the workers' ids."""
    script, files = tmp_path / "script.py", [tmp_path / "out" / name for name in "abcdef"]
    script.write_text(SCRIPT.format(guard=guard))
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives
    )
    if not guard:
        return process, []
    for file in files[:2]:
        units.wait_for(f"{file}.pid")
    return process, [int(Path(f"{file}.pid").read_text()) for file in files[:2]]


def left_behind(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def test_ctrl_c_ends_the_workers_and_what_they_were_writing(tmp_path):
    process, pids = started(tmp_path)
    assert all(map(is_running, pids)) and len(left_behind(tmp_path)) == 4
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=units.PATIENCE_S)
    assert process.returncode != 0 and err.count("Traceback") == 1 and "KeyboardInterrupt" in err, err
    assert not any(map(is_running, pids))
    assert left_behind(tmp_path) == ["a.pid", "b.pid"]


def test_workers_end_soon_after_a_parent_that_was_killed(tmp_path):
    process, pids = started(tmp_path)
    process.kill()
    process.communicate(timeout=units.PATIENCE_S)
    wait_until_gone(pids)
    assert left_behind(tmp_path) == ["a.pid", "b.pid"]


def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path):
    process, _ = started(tmp_path, guard="")
    _, err = process.communicate(timeout=units.PATIENCE_S)
    assert process.returncode == 1
    assert ": a worker process could not start" in err and "if __name__ == '__main__'" in err


# ---- what a unit finds around it


def test_an_executor_within_a_worker_is_serial(two):
    kind, pid, inner = next(two.map(units.nested, [1]))
    assert kind == "SerialExecutor" and inner == [pid] * 3 and pid != os.getpid()


def test_units_compute_with_one_thread(two):
    assert next(two.map(units.threads, [1])) == {"omp": "1", "torch": 1, "numba": 1}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(make_executor("serial").map(units.torch_threads, range(2))) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_log_of_a_unit_reaches_the_parent_and_its_prints_leave_stdout_alone(two, caplog, capfd):
    with make_executor("processes", 2) as pool, caplog.at_level(logging.WARNING, "snn_perception"):
        assert list(pool.map(units.logs, range(2))) == [0, 1]
    assert sorted(record.getMessage() for record in caplog.records) == ["unit 0 of many", "unit 1 of many"]
    out, err = capfd.readouterr()
    assert out == "" and err.count("printed by a unit") == 2


# ---- the choice


def test_executors_by_name(monkeypatch):
    assert type(make_executor("serial")).__name__ == type(make_executor("processes", 1)).__name__ == "SerialExecutor"
    with make_executor(workers=5) as pool:
        assert (type(pool).__name__, pool.workers) == ("ProcessExecutor", 5)
    monkeypatch.setattr(executor, "processors_at_hand", lambda: 7)
    with make_executor() as pool:
        assert pool.workers == 7
    with pytest.raises(SnnPerceptionError, match=r"unknown executor 'threads'; known: processes, serial, ray"):
        make_executor("threads")
    with pytest.raises(SnnPerceptionError, match="at least 1 worker, got 0"):
        make_executor("processes", 0)


def test_processors_at_hand_are_those_of_the_container(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(executor, "_CPU_QUOTA", quota)
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for text, processors in (("max 100000", 8), ("250000 100000", 3), ("9900000 100000", 8), ("1000 100000", 1)):
        quota.write_text(text)
        assert processors_at_hand() == processors
    quota.unlink()
    assert processors_at_hand() == 8


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_way_to_get_it_is_told():
    with pytest.raises(SnnPerceptionError, match=r"needs the package ray .*pip install 'snn_perception\[ray\]'"):
        make_executor("ray")


@pytest.mark.skipif(not HAS_RAY, reason="the package ray is not installed (extra 'ray')")
def test_ray_gives_the_same_results():
    with make_executor("ray", 2) as cluster:
        assert list(cluster.map(units.sums, range(6))) == list(make_executor("serial").map(units.sums, range(6)))
        with pytest.raises(EventDataError, match=r"^faulty.dat: is empty$"):
            list(cluster.map(units.fails_at, [("good", None), ("faulty.dat", EventDataError("is empty"))]))
        with pytest.raises(SnnPerceptionError, match=r"^faulty.dat: its Ray worker was lost"):
            list(cluster.map(units.dies, [("faulty.dat", signal.SIGKILL)]))
        assert next(cluster.map(units.nested, [1]))[0] == "SerialExecutor"


# ---- the ledger


@dataclass(frozen=True)
class Options:
    level: int
    path: Path


def test_keys_tell_what_they_are_made_of():
    parts = [{"b": 1, "a": [1, 2.5, None, True, "x"]}, Options(3, Path("a/b"))]
    assert unit_key(*parts) == unit_key({"a": (1, 2.5, None, True, "x"), "b": 1}, Options(3, Path("a/b")))
    others = [[1], ["1"], [1.5], [[1]], [1, None], [{"1": 1}], [Options(4, Path("a/b"))], [{"level": 4, "path": "a/b"}]]
    assert len({unit_key(*other) for other in [parts, [], *others]}) == len(others) + 2
    assert unit_key(1, "a") == hashlib.sha256(b'[1,"a"]').hexdigest()
    for value in ({1: 2}, {1, 2}, object(), b"x"):
        with pytest.raises(TypeError, match="expected"):
            unit_key(value)
    with pytest.raises(ValueError, match="Out of range"):
        unit_key(float("nan"))


def test_a_ledger_gives_back_what_was_put(tmp_path):
    ledger, key = Ledger(tmp_path / "deep" / "folder"), unit_key("one")
    assert ledger.get(key) is None
    for value in ({"events": 3, "names": ["ä", None], "share": 0.1}, {}):
        ledger.put(key, value)
        assert ledger.get(key) == value == Ledger(ledger.folder).get(key)
    assert ledger.get(unit_key("two")) is None
    assert [path.name for path in ledger.folder.iterdir()] == [f"{key}.json"]
    with pytest.raises(SnnPerceptionError, match="expected the key of a unit"):
        ledger.get("../../etc/passwd")
    (tmp_path / "file").touch()
    with pytest.raises(SnnPerceptionError, match="cannot be written"):
        Ledger(tmp_path / "file" / "below").put(key, {})


def test_damaged_entries_count_as_none(tmp_path):
    ledger, key, value = Ledger(tmp_path), unit_key("one"), {"events": 12345, "name": "drive"}
    ledger.put(key, value)
    path = tmp_path / f"{key}.json"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert ledger.get(key) is None
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert ledger.get(key) in (None, value)
    changed = whole.replace(b"12345", b"12346")
    assert changed != whole
    for damaged in (changed, b"[]", b"{}", b"null", b'{"sha256": 1, "value": 2}', b"[" * 100_000):
        path.write_bytes(damaged)
        assert ledger.get(key) is None
    other = unit_key("two")
    path.write_bytes(whole)
    path.rename(tmp_path / f"{other}.json")
    assert ledger.get(other) is None, "an entry counts under its own key alone"
    ledger.put(key, value)
    assert ledger.get(key) == value


def test_a_ledger_serves_several_processes(two, tmp_path):
    seen = list(two.map(units.notes_many, [(tmp_path, 1), (tmp_path, 2)]))
    assert all(entry is not None for entries in seen for entry in entries)
    assert all(length - 1000 * writer in range(60) for entries in seen for writer, length in entries)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{unit_key(i)}.json" for i in range(3))
    assert all(json.loads(path.read_text())["value"]["writer"] in (1, 2) for path in tmp_path.iterdir())


def test_the_identity_of_files_changes_with_them(tmp_path):
    folder = tmp_path / "bag"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"12")
    (folder / "deep" / "b").write_bytes(b"345")
    before = file_identity(folder)
    assert [entry[:2] for entry in before] == [["a", 2], ["deep/b", 3]] and file_identity(folder) == before
    os.utime(folder / "a", ns=(0, 10**18 + 1))
    assert file_identity(folder) != before
    assert file_identity(folder / "a") == [["", 2, 10**18 + 1]]
    with pytest.raises(FileNotFoundError):
        file_identity(folder / "none")


def test_an_end_that_a_callback_swallows_comes_again(tmp_path):
    """A signal's exception inside a weak reference's callback is lost; the worker still ends, and says nothing."""
    code = """
import os, signal, sys, time, weakref
from snn_perception.work import worker
from snn_perception.work.attempt import WorkerEnds
class Thing: pass
def swallows(reference):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
signal.signal(signal.SIGTERM, worker._end)
sys.unraisablehook = worker._end_again
thing = Thing()
reference = weakref.ref(thing, swallows)
try:
    del thing
    for _ in range(300):
        time.sleep(0.1)
    print("went on")
except WorkerEnds:
    print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("ended\n", "")

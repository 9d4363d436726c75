"""Units of work for the tests of executors: they run in other processes, so they live in a module that loads fast."""

import os
import threading
import time
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.whole_file import whole_file

PATIENCE_S = 60.0  # no test waits that long for something that happens


def wait_for(path):
    """Return when a file is there; fail where it never comes."""
    end = time.monotonic() + PATIENCE_S
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def square(number):
    return number * number


def square_slowly_at_first(number):
    time.sleep(0.2 if number == 0 else 0.0)
    return square(number)


def pid_when_both_run(names):
    """Two units, each of which waits for the other: no single process gets through."""
    mine, other = names
    Path(mine).touch()
    wait_for(other)
    return os.getpid()


def first_waits(unit):
    number, path = unit
    if number == 0:
        wait_for(path)
    return number


def fails_at(unit):
    name, error = unit
    if error is not None:
        raise error
    return name


class Odd(Exception):
    """An error that pickles, but does not come back."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fails_oddly(number):
    raise Odd(1, 2)


def exits(number):
    raise SystemExit(3)


def dies(unit):
    number, signal_number = unit
    if signal_number is not None:
        os.kill(os.getpid(), signal_number)
        time.sleep(PATIENCE_S)
    return number


def leaves(number):
    os._exit(7)


def half_written(path):
    """Begin a file in the usual way, tell whose it is, and never come to its end."""
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        Path(f"{path}.pid").write_text(str(os.getpid()))
        time.sleep(PATIENCE_S)


def fails_when_other_is_half_written(path):
    if path.endswith("faulty"):
        wait_for(path.replace("faulty", "good.pid"))
        raise EventDataError(f"{path}: nothing in it")
    half_written(path)


def threads(number):
    import numba
    import torch

    return {"omp": os.environ["OMP_NUM_THREADS"], "torch": torch.get_num_threads(), "numba": numba.get_num_threads()}


def torch_threads(number):
    import torch

    return torch.get_num_threads()


def nested(number):
    from snn_perception.work import make_executor

    with make_executor("processes", 4) as executor:
        return type(executor).__name__, os.getpid(), list(executor.map(pid_of, range(3)))


def pid_of(number):
    return os.getpid()


def logs(number):
    import logging

    logging.getLogger("snn_perception.tests").warning("unit %d of %s", number, "many")
    logging.getLogger("snn_perception.tests").debug("not asked for")
    print("printed by a unit")
    return number


def returns_a_lock(number):
    return threading.Lock()


def tensor(number):
    import torch

    return torch.arange(number, dtype=torch.float64) ** 0.5


def sums(seed):
    """Sums whose last bits tell in which order they were taken."""
    import numpy as np
    import torch

    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((300, 300), np.float32))
    return float((x @ x).sum()), float(x.sum())


def notes_many(unit):
    """Write and read the same few entries over and over; return the values that were read."""
    from snn_perception.work import Ledger, unit_key

    folder, writer = unit
    ledger, seen = Ledger(folder), []
    for i in range(60):
        key = unit_key(i % 3)
        ledger.put(key, {"writer": writer, "text": "x" * (1000 * writer + i)})
        value = ledger.get(key)
        seen.append(None if value is None else (value["writer"], len(value["text"])))
    return seen

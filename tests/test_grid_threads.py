"""A representation's buffers are taken by the thread that fills windows and given back by the one that runs them."""

import sys
import threading

from snn_perception.events.representations import VoxelCube
from snn_perception.types import SensorSize


def test_buffers_may_be_given_back_while_others_are_taken():
    representation = VoxelCube(SensorSize(8, 8))
    errors, before, done = [], sys.getswitchinterval(), threading.Event()

    def take():
        while not done.is_set():
            representation.new_grid()

    def give():
        try:
            for _ in range(20_000):
                for grid in grids:
                    representation.give_back(grid)
        except RuntimeError as error:
            errors.append(error)
        finally:
            done.set()

    grids = [representation.new_grid() for _ in range(6)]
    threads = [threading.Thread(target=work) for work in (take, take, give)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert done.is_set() and not errors

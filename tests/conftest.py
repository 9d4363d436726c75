"""What all tests share: the installed components, how hypothesis runs, and an end for what hangs."""

import faulthandler
import os

import pytest
import torch
from hypothesis import settings

from snn_perception import load_registry
from snn_perception.discovery import PLUGINS_VARIABLE
from snn_perception.registry import Registry

# No deadline: how long an example takes says nothing on a shared machine. The same examples on every run.
settings.register_profile("repository", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repository")

# Small tensors gain nothing from more threads, and sums come out the same on every machine.
torch.set_num_threads(1)


GRACE_S = 60.0  # beyond its time limit, for a test that pytest-timeout cannot reach
_STDERR = pytest.StashKey[int]()


def pytest_configure(config):
    """Keep the real stderr: what a test prints is captured."""
    config.stash[_STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """End a process that hangs in C, with the stacks of all its threads: the limit is a signal, which waits there."""
    limit_s = float(item.config.getoption("timeout") or item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _no_plugins_from_outside(monkeypatch):
    """A developer's own list of plugins has no say in the tests."""
    monkeypatch.delenv(PLUGINS_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The core's components and those of every installed plugin."""
    return load_registry(environment=False)


@pytest.fixture
def threads():
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

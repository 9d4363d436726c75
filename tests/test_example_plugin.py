"""The example plugin as a stranger would use it: installed by pip, or loaded from its file, in a fresh Python."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from snn_perception import load_registry
from snn_perception.testing import check_neuron
from tests.paths import ROOT

EXAMPLE = ROOT / "examples" / "quantal"
MODULE = EXAMPLE / "snn_perception_quantal.py"
PRESET = "st_vgg_ssd_16"

# Builds the preset with the neuron in place of its own and reports how often each layer fires over three windows.
USE = f"""
import json
from dataclasses import replace
from snn_perception import load_registry
from snn_perception.api import ComponentRef
from snn_perception.detector import Detector
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake

registry = load_registry()
entry = registry.find("neuron", "quantal")
plugin = next(plugin for plugin in registry.plugins if plugin.id == entry.plugin)
spec = registry.build("preset", "{PRESET}", height=64, width=96)
detector = Detector(replace(spec, neuron=ComponentRef("quantal", {{"release": 0.9}})), registry).double().eval()
x = sparse_input(3, 1, 2, 64, 96)
wake(detector.backbone, x)
state, rates = None, []
for window in x.split(1):
    with FiringMeter(spiking_layers(detector.backbone, x)) as meter:
        _, state = detector.infer(window, state)
    rates.append(meter.rates())
print(json.dumps({{"source": plugin.source, "release": detector.spec.neuron.options["release"], "rates": rates}}))
"""


def python(*arguments, **environment):
    """Run a fresh Python in the repository; returns what it printed."""
    child = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}},
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def assert_fires(printed: str) -> None:
    used = json.loads(printed)
    assert used["release"] == 0.9
    assert len(used["rates"]) == 3
    for rates in used["rates"]:
        assert len(rates) == 11 and all(0.01 <= rate <= 0.60 for rate in rates.values()), rates


@pytest.fixture(scope="module")
def needs_preset(registry):
    assert PRESET in registry.names("preset")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example installed by pip; the example's own folder stays clean."""
    source, target = tmp_path_factory.mktemp("source") / "quantal", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", target, source]
    python(*map(str, pip))
    assert (target / "snn_perception_quantal.py").is_file() and list(target.glob("*.dist-info"))
    return target


def search_path(folder) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.usefixtures("needs_preset")
def test_installed_it_is_found_by_its_entry_point(installed):
    printed = python("-c", USE, PYTHONPATH=search_path(installed))
    assert json.loads(printed)["source"] == "snn_perception_quantal"
    assert_fires(printed)


@pytest.mark.usefixtures("needs_preset")
def test_from_its_file_it_is_found_by_the_variable():
    printed = python("-c", USE, SNN_PERCEPTION_PLUGINS=MODULE)
    assert json.loads(printed)["source"] == str(MODULE)
    assert_fires(printed)


def test_from_its_file_it_is_found_by_the_command(installed):
    command = ["-m", "snn_perception", "plugins", "neuron:quantal", "--json"]
    described = json.loads(python(*command, "--plugin", str(MODULE)))
    assert described == json.loads(python(*command, PYTHONPATH=search_path(installed)))
    assert (described["kind"], described["plugin"]) == ("neuron", "quantal")
    assert {name: option["default"] for name, option in described["options"].items()} == {
        "release": 0.8,
        "v_threshold": 1.0,
    }


def test_its_own_test_passes(installed):
    printed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE), PYTHONPATH=search_path(installed))
    assert "2 passed" in printed


@pytest.mark.parametrize("release", [0.3, 1.0])
def test_it_honours_the_contract(release):
    registry = load_registry([MODULE], environment=False)
    check_neuron(registry.factory("neuron", "quantal", release=release))


def test_the_document_shows_it_word_by_word():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text("utf-8"), re.S)
    assert MODULE.read_text("utf-8") in blocks, "docs/plugins.md must show the example as it is"
    readme = re.search(r"```python\n(.*?)```", (EXAMPLE / "README.md").read_text("utf-8"), re.S)[1]
    python("-c", readme, SNN_PERCEPTION_PLUGINS=MODULE)

"""Finding plugins: by path, package, module, variable and entry point; and what a bad one does to the others."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snn_perception import build_preset, load_registry
from snn_perception.discovery import PLUGINS_VARIABLE
from snn_perception.errors import PluginError
from snn_perception.registry import Registry
from snn_perception.testing import sparse_input
from tests.paths import ROOT

PLUGINS = ROOT / "tests" / "plugins"


def load(*plugins, **options) -> Registry:
    """Return the registry of the core and these plugins alone."""
    return load_registry(plugins, installed=False, **options)


def ids(registry: Registry) -> list[str]:
    return [plugin.id for plugin in registry.plugins if not plugin.error]


def install(folder: Path, plugin_id: str, code: str, *, module: str | None = None) -> None:
    """Lay a distribution with one plugin into a folder, as pip would."""
    module = module or f"snn_perception_{plugin_id}"
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[snn_perception.plugins]\n{plugin_id} = {module}\n")


def neuron_plugin(name: str) -> str:
    return (
        "from snn_perception.api import Component, hookimpl\n"
        f"@hookimpl\ndef snn_neurons():\n    return [Component({name!r}, dict)]\n"
    )


def test_the_core_is_a_plugin_too():
    registry = load()
    assert ids(registry) == ["core"]
    assert "voxel_cube" in registry.names("representation") and "evt3" in registry.names("event_decoder")
    assert registry.names("neuron") == []


@pytest.mark.parametrize("form", [Path, str, os.path.relpath])
def test_a_file(form):
    registry = load(form(PLUGINS / "good.py"))
    assert ids(registry) == ["core", "good"] and registry.names("neuron") == ["good_if"]
    assert registry.find("neuron", "good_if").component.version == 3


def test_a_package_folder():
    registry = load(PLUGINS / "a_package")
    assert ids(registry) == ["core", "a_package"]
    assert registry.build("neuron", "packaged", size=4).size == 4


def test_a_module(tmp_path, monkeypatch):
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots" / "neurons_of_mine.py").write_text(neuron_plugin("mine"))
    monkeypatch.syspath_prepend(tmp_path)
    registry = load("robots.neurons_of_mine")
    assert ids(registry) == ["core", "neurons_of_mine"] and registry.names("neuron") == ["mine"]


def test_a_path_below_home(tmp_path, monkeypatch):
    (tmp_path / "homely.py").write_text(neuron_plugin("homely"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/homely.py").names("neuron") == ["homely"]


def test_the_variable_holds_a_list(monkeypatch):
    listed = os.pathsep.join([str(PLUGINS / "good.py"), "", str(PLUGINS / "a_package")])
    monkeypatch.setenv(PLUGINS_VARIABLE, listed)
    assert load().names("neuron") == ["good_if", "packaged"]
    assert load(environment=False).names("neuron") == []


def test_the_same_path_twice_is_one_plugin(monkeypatch):
    monkeypatch.setenv(PLUGINS_VARIABLE, f"{PLUGINS}/../plugins/good.py")
    assert ids(load(PLUGINS / "good.py", os.path.relpath(PLUGINS / "good.py"))) == ["core", "good"]


def test_a_file_is_run_once():
    first, second = (load(PLUGINS / "good.py").find("neuron", "good_if").component.factory for _ in range(2))
    assert first is second, "two registries share the classes, as they share those of installed plugins"


def test_files_of_one_name_are_two_plugins(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder / "kit").mkdir(parents=True)
        (tmp_path / folder / "kit" / "__init__.py").write_text("from .part import *\n")
        (tmp_path / folder / "kit" / "part.py").write_text(neuron_plugin(folder))
    assert load(tmp_path / "one" / "kit").names("neuron") == ["one"]
    assert load(tmp_path / "two" / "kit").names("neuron") == ["two"], "not the first folder's part"
    with pytest.raises(PluginError, match=r"plugin id 'kit' is given twice: .*one/kit and .*two/kit; rename one"):
        load(tmp_path / "one" / "kit", tmp_path / "two" / "kit")


def test_two_plugins_may_offer_one_name_until_it_is_asked_for():
    registry = load(PLUGINS / "good.py", PLUGINS / "clashing.py")
    assert registry.names("neuron") == ["clashing:good_if", "good:good_if"]
    with pytest.raises(PluginError, match="'good_if' is offered by the plugins 'good' and 'clashing'"):
        registry.find("neuron", "good_if")
    assert registry.find("neuron", "clashing:good_if").plugin == "clashing"


NAMED = {
    "broken.py": "ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
    "leaves.py": "SystemExit: this script takes two arguments",
    "wrong_api.py": "was written for plugin API 99, this is API 1; install a matching version",
    "returns_wrong_type.py": "snn_neurons() must return a list of Component, got type in it",
    "empty.py": "declares no components; decorate a function such as snn_neurons() with @hookimpl",
    "unknown_hook.py": "unknown hook 'snn_neuron'; did you mean 'snn_neurons'?",
    "wrong_signature.py": "Plugin 'wrong_signature' for hook 'snn_neurons' hookimpl definition: snn_neurons(registry) "
    "Argument(s) {'registry'} are declared in the hookimpl but can not be found in the hookspec",
    "absent.py": f"expected a Python file or a package folder, there is no {PLUGINS / 'absent.py'}",
}


@pytest.mark.parametrize("file", NAMED)
def test_a_bad_plugin_that_was_named_is_an_error(file):
    name = file.removesuffix(".py")
    with pytest.raises(PluginError, match=re.escape(f"plugin '{name}' ({PLUGINS / file}): {NAMED[file]}")) as caught:
        load(PLUGINS / "good.py", PLUGINS / file)
    assert caught.value.__cause__ is not None, "the cause is chained"


@pytest.mark.parametrize("file", sorted(NAMED.keys() - {"absent.py"}))
def test_a_bad_plugin_that_nobody_named_stops_no_other(file, tmp_path, monkeypatch, caplog):
    install(tmp_path, "a_bad_one", (PLUGINS / file).read_text(), module=f"bad_{file[:-3]}")
    install(tmp_path, "sound", neuron_plugin("sound_neuron"))
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.DEBUG, "snn_perception.discovery"):
        registry = load_registry(environment=False)
    assert "sound_neuron" in registry.names("neuron") and "plif" in registry.names("neuron")
    (bad,) = [plugin for plugin in registry.plugins if plugin.id == "a_bad_one"]
    assert bad.error == NAMED[file].replace("Plugin 'wrong_signature'", "Plugin 'a_bad_one'")
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING and "a_bad_one" in r.message]
    assert warning.message.endswith(f"is left out: {bad.error}") and warning.exc_info is None
    (trace,) = [r for r in caplog.records if r.levelno == logging.DEBUG and "a_bad_one" in r.message]
    assert trace.exc_info is not None, "the traceback is there for who asks"
    with pytest.raises(PluginError, match=r"plugins that are not in use: .*'a_bad_one'"):
        registry.find("neuron", "something_of_that_plugin")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", "snn_neurons() must return a list of Component, got NoneType"),
        ("yield 1", "snn_neurons() must return a list of Component, got generator"),
        ("raise KeyError('x')", "snn_neurons(): KeyError: 'x'"),
        ("return [Component('a', dict), Component('a', dict)]", "snn_neurons() declares 'a' twice"),
        ("return [Component('A', dict)]", "snn_neurons(): PluginError: component name 'A'"),
    ],
)
def test_what_a_hook_may_not_do(body, reason, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        f"from snn_perception.api import Component, hookimpl\n@hookimpl\ndef snn_neurons():\n    {body}\n"
    )
    with pytest.raises(PluginError, match=re.escape(f"plugin 'mine' ({plugin}): {reason}")):
        load(plugin)


def test_an_unknown_hook_with_nothing_close(tmp_path):
    (tmp_path / "mine.py").write_text("from snn_perception.api import hookimpl\n@hookimpl\ndef quux():\n    pass\n")
    with pytest.raises(PluginError, match=r"unknown hook 'quux'; hooks: snn_neurons, snn_backbones, .*snn_datasets"):
        load(tmp_path / "mine.py")


def test_blocked_plugins_are_not_loaded(caplog):
    registry = load(PLUGINS / "good.py", PLUGINS / "broken.py", blocked=["broken", "typo"])
    assert ids(registry) == ["core", "good"]
    assert [plugin.error for plugin in registry.plugins if plugin.id == "broken"] == ["blocked"]
    assert "no plugin 'typo' to leave out; plugins: core, good, broken" in caplog.text
    assert "plif" not in load_registry(blocked=["neurons"], environment=False).names("neuron")


def test_a_local_plugin_stands_in_for_the_installed_one(tmp_path, monkeypatch, caplog):
    install(tmp_path, "quartz", neuron_plugin("installed"))
    local = tmp_path / "local" / "quartz.py"
    local.parent.mkdir()
    local.write_text(neuron_plugin("local"))
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.INFO, "snn_perception.discovery"):
        registry = load_registry([local], environment=False)
    assert "local" in registry.names("neuron") and "installed" not in registry.names("neuron")
    record = next(r for r in caplog.records if "stands in" in r.message)
    assert record.levelno == logging.INFO
    assert record.message == f"plugin 'quartz': {local} stands in for snn_perception_quartz"


def test_naming_an_installed_module_changes_nothing(tmp_path, monkeypatch, caplog):
    install(tmp_path, "opal", neuron_plugin("opal"))
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_registry(["snn_perception_opal"], environment=False)
    assert registry.find("neuron", "opal").plugin == "opal"
    assert not [r for r in caplog.records if "opal" in r.message]


def test_two_installed_plugins_of_one_id_are_reported(tmp_path, monkeypatch, caplog):
    install(tmp_path, "quartz", neuron_plugin("first"), module="a_quartz")
    install(tmp_path, "quartz", neuron_plugin("second"), module="b_quartz")
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_registry(environment=False)
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING and "quartz" in r.message]
    assert re.fullmatch(r"plugin 'quartz': [ab]_quartz stands in for [ab]_quartz", warning.message)
    assert len({"first", "second"} & set(registry.names("neuron"))) == 1


@pytest.mark.parametrize("family", ["no_reset", "ssd", "neurons"])
def test_our_own_families_load_by_path_as_a_strangers_would(family, registry, monkeypatch):
    """The proof that they are plugins: the same components from their folder, with the installed ones blocked."""
    path = next(p for p in (ROOT / "plugins" / family, ROOT / "plugins" / f"{family}.py") if p.exists())
    monkeypatch.setenv(PLUGINS_VARIABLE, str(path))
    alone = load_registry(installed=False)
    assert ids(alone) == ["core", family]
    for kind in ("neuron", "backbone", "head", "preset", "checkpoint_importer"):
        ours = [(e.component.name, e.component.version) for e in registry.entries(kind) if e.plugin == family]
        assert [(e.component.name, e.component.version) for e in alone.entries(kind)] == ours
        for name, _ in ours:
            assert alone.find(kind, name).component.options() == registry.find(kind, name).component.options()


def test_a_model_of_plugins_loaded_by_path_is_the_same_model(registry):
    paths = [ROOT / "plugins" / "neurons.py", ROOT / "plugins" / "ssd", ROOT / "plugins" / "no_reset"]
    local = load_registry(paths, installed=False, environment=False)
    size = {"height": 64, "width": 96}
    ours, theirs = (build_preset("st_vgg_ssd_16", registry=r, **size) for r in (local, registry))
    assert type(ours.backbone) is not type(theirs.backbone), "two copies of the same code"
    assert ours.spec == theirs.spec
    one, two = ours.state_dict(), theirs.state_dict()
    assert list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)
    x = sparse_input(1, 1, 2, 64, 96, dtype=torch.float32)
    (found, _), (expected, _) = ours.infer(x), theirs.infer(x)
    assert found == expected and len(found[0]) > 0


def test_with_the_pluggy_of_ros_humble(tmp_path):
    """Ubuntu 22.04 has pluggy 0.13; both must give the same registry and the same words."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), "pluggy==0.13.1"]
    fetched = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch pluggy 0.13.1: {fetched.stderr.strip().splitlines()[-1]}")
    script = (
        "import pluggy, sys\n"
        "from snn_perception import load_registry\n"
        "from snn_perception.errors import PluginError\n"
        "assert pluggy.__version__ == '0.13.1', pluggy.__version__\n"
        "print(load_registry(sys.argv[1:2]).names('neuron'))\n"
        "for bad in sys.argv[2:]:\n"
        "    try:\n"
        "        load_registry([bad])\n"
        "    except PluginError as error:\n"
        "        print(error)\n"
    )
    bad = ["unknown_hook.py", "wrong_signature.py"]
    arguments = [str(PLUGINS / file) for file in ["good.py", *bad]]
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert child.returncode == 0, child.stderr
    names, *errors = child.stdout.splitlines()
    assert "'good_if'" in names and "'plif'" in names
    assert errors == [f"plugin '{f.removesuffix('.py')}' ({PLUGINS / f}): {NAMED[f]}" for f in bad]

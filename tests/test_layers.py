"""Who may import whom: layers point down, only the edge knows ROS, plugins know the API alone, the core no family."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = "snn_perception"
PLUGINS_PACKAGE = "snn_perception_plugins"
# Each folder of plugins/ is a family too; these are words of the field.
FAMILIES = {"st_vgg", "rescat", "spikeyolo", "eas_snn", *(path.stem for path in (ROOT / "plugins").iterdir())}
FAMILIES -= {"neurons", "datasets", "__init__", "__pycache__"}

# Every module has a place here, lowest layer first. It imports from its own layer and those below. A name covers the
# module and everything in it, unless a longer one says otherwise.
LAYERS = (
    (
        "values",
        "errors",
        "types",
        "state",
        "whole_file",
        "tensor_file",
        "tensor_names",
        "held_folder",
        "ranks",
        "work",
    ),
    (
        "operations",
        *("boxes", "selection", "suppression"),
        *("events.jit", "fusing", "kernel_threads", "neuron_steps", "neuron_cpu", "neuron_kernels"),
        *("norm_convolution", "norm_kernels", "native", "whole_steps", "whole_cpu", "whole_kernels"),
        *("neuron_triton", "triton_kernels"),
    ),
    ("vocabulary of plugins", "nn", "fold", "spec", "hookspecs", "registry", "discovery", "builtin_components"),
    (
        "building and feeding",
        *("detector", "membranes", "anytime", "checkpoint", "spike_driven", "zoo", "foreign", "importing", "cost"),
        *("events", "data", "synth", "images"),
        *("neuron_steps", "neuron_cpu", "neuron_kernels"),
    ),
    ("door for plugins", "api", "testing"),
    ("running a step", "engine"),
    ("using a detector", "runtime", "training", "evaluation", "doctor", "benchmark"),
    ("edge", "cli", "ros", "__main__"),
)
# Imports names lazily from anywhere, for `from snn_perception import ...`.
FRONT = PACKAGE

ROS_PACKAGES = {
    "rclpy",
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "event_camera_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rosidl_runtime_py",
    "sensor_msgs",
    "sensor_msgs_py",
    "std_msgs",
    "std_srvs",
    "tf2_ros",
    "vision_msgs",
}
PLUGIN_IMPORTS = {"numpy", "torch", "spikingjelly", f"{PACKAGE}.api"}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, late: bool = True) -> set[str]:
    """Return the full names of the modules a file imports, those inside functions included unless `late` is false."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found: set[str] = set()
    nodes = list(ast.walk(tree)) if late else list(_at_import(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            found.update(f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _is_import_call(node.func):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.add(argument.value)
    return found


def _at_import(tree: ast.AST):
    """Yield what runs when the module is imported: no function bodies, no blocks for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _at_import(node)


def _is_import_call(function: ast.expr) -> bool:
    return (isinstance(function, ast.Name) and function.id in ("import_module", "__import__")) or (
        isinstance(function, ast.Attribute) and function.attr == "import_module"
    )


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def layer_of(module: str) -> int | None:
    """Return the index of a module's layer; None for one that is not in the table."""
    inner = module.removeprefix(f"{PACKAGE}.")
    while inner:
        for index, (_, *names) in enumerate(LAYERS):
            if inner in names:
                return index
        inner = inner.rpartition(".")[0]
    return None


CORE = sources(PACKAGE)


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_a_module_imports_from_its_layer_or_below(path):
    module = module_name(path)
    if module == FRONT:
        return
    layer = layer_of(module)
    assert layer is not None, f"{module} has no place in LAYERS of tests/test_layers.py: add it to the layer it is on"
    for imported in sorted(imports(path)):
        if imported == PACKAGE or imported.split(".")[0] != PACKAGE:
            continue
        below = layer_of(imported)
        assert below is not None, f"{module} imports {imported}, which has no place in LAYERS"
        assert below <= layer, (
            f"{module} ({LAYERS[layer][0]}) imports {imported} ({LAYERS[below][0]}), which is above it"
        )


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_only_the_edge_imports_ros(path):
    if module_name(path).startswith(f"{PACKAGE}.ros"):
        return
    foreign = {name.split(".")[0] for name in imports(path)} & ROS_PACKAGES
    assert not foreign, f"{module_name(path)} imports {sorted(foreign)}; only {PACKAGE}/ros and launch/ may"


@pytest.mark.parametrize("path", sources("plugins"), ids=module_name)
def test_plugins_import_the_api_alone(path):
    own = module_name(path).split(".")[:2]
    for imported in sorted(imports(path)):
        top = imported.split(".")[0]
        allowed = (
            imported in PLUGIN_IMPORTS
            or top in PLUGIN_IMPORTS
            or top in sys.stdlib_module_names
            or (imported.split(".")[:2] == own and len(own) == 2)
        )
        assert allowed, f"{module_name(path)} imports {imported}; a plugin imports {sorted(PLUGIN_IMPORTS)} and itself"


def names_and_texts(path: Path):
    """Yield every name, attribute, keyword and text of a file that is not a docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    prose = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            prose.add(body[0].value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.value
        for field in ("id", "attr", "name", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


@pytest.mark.parametrize("path", CORE, ids=module_name)
def test_the_core_names_no_family(path):
    family = re.compile(rf"(?<![a-z])({'|'.join(sorted(FAMILIES))})(?![a-z])")
    for text in names_and_texts(path):
        named = PLUGINS_PACKAGE in text or family.search(text.lower().replace("-", "_"))
        assert not named, f"{module_name(path)} names a plugin: {text!r}; the core knows them by their hooks alone"


def test_every_name_in_the_table_exists():
    """A name left behind would let a new module of that name in anywhere; what is planned is listed here."""
    planned = {"training", "evaluation"}
    names = {name for _, *names in LAYERS for name in names}
    absent = {name for name in names if not is_module(f"{PACKAGE}.{name}")}
    assert absent <= planned, f"LAYERS names modules that do not exist: {sorted(absent - planned)}"


@pytest.mark.parametrize(
    ("code", "module", "expected"),
    [
        ("import a.b, c", "snn_perception/x.py", {"a.b", "c"}),
        ("from snn_perception import registry", "snn_perception/x.py", {"snn_perception.registry"}),
        ("from snn_perception.registry import Registry", "snn_perception/x.py", {"snn_perception.registry"}),
        ("from .registry import Registry", "snn_perception/x.py", {"snn_perception.registry"}),
        ("from . import registry", "snn_perception/x.py", {"snn_perception.registry"}),
        ("from ..registry import Registry", "snn_perception/events/x.py", {"snn_perception.registry"}),
        ("def f():\n    import rclpy.node", "snn_perception/x.py", {"rclpy.node"}),
        ("import importlib\nimportlib.import_module('rclpy')", "snn_perception/x.py", {"importlib", "rclpy"}),
    ],
)
def test_imports_are_seen(code, module, expected, tmp_path, monkeypatch):
    for path in (module, "snn_perception/registry.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / module).write_text(code)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert imports(tmp_path / module) == expected


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh Python has loaded after some code."""
    report = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    child = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stderr
    return set(json.loads(child.stdout.splitlines()[-1]))


HEAVY = {
    "yaml",
    "tensorboard",
    "rclpy",
    "numba",
    "h5py",
    "hdf5plugin",
    "rosbags",
    "pycocotools",
    "matplotlib",
    "rich",
    "av",
    "onnx",
    "safetensors",
}


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_after("import snn_perception")
    assert not loaded & (HEAVY | {"torch", "numpy", "pluggy"})


def test_listing_the_core_needs_no_torch():
    code = (
        "from snn_perception import load_registry; r = load_registry(installed=False); assert r.names('event_decoder')"
    )
    assert not loaded_after(code) & (HEAVY | {"torch", "spikingjelly"})


def test_loading_the_plugins_loads_no_more_than_they_need():
    code = "from snn_perception import load_registry; assert 'plif' in load_registry().names('neuron')"
    loaded = loaded_after(code)
    assert {"torch", "spikingjelly"} <= loaded
    assert not loaded & HEAVY

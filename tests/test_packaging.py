"""The package as colcon, ROS and pip see it: what is declared, what is installed, and that the installed copy runs."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What package.xml may name: keys of rosdep and released packages. One unknown key fails `rosdep install` as a whole.
ROSDEP_KEYS = {
    "python3-h5py",
    "python3-matplotlib",
    "python3-pil",
    "python3-numpy",
    "python3-pytest",
    "python3-torch",
    "python3-yaml",
}
ROS_PACKAGES = {
    "ament_flake8",
    "ament_index_python",
    "ament_pep257",
    "builtin_interfaces",
    "diagnostic_msgs",
    "event_camera_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs",
    "sensor_msgs_py",
    "std_msgs",
    "std_srvs",
    "vision_msgs",
}


def run(*command: str, cwd: Path, timeout: int = 120) -> str:
    """Return what a command printed on stdout; a failure shows both outputs."""
    # The whole environment is handed on: with the ROS wheels a child needs both variables of the start-up hook.
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def source_files() -> list[str]:
    """Return the files under version control or about to be, relative to the repository root."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    listing = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    return sorted(name for name in listing.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def distribution():
    """Return what setup.py declares."""
    import setuptools  # noqa: F401, I001  (brings distutils, which Python 3.12 has no more)
    from distutils.core import run_setup

    before = Path.cwd()
    os.chdir(ROOT)
    try:
        return run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(before)


def entry_points(distribution, group: str) -> dict[str, str]:
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in distribution.entry_points[group])


# ---------------------------------------------------------------------------------------------------- declarations


def test_every_package_folder_is_installed(distribution):
    folders = {path.parent for top in ("snn_perception", "plugins") for path in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(distribution.packages) == {re.sub(r"^plugins", "snn_perception_plugins", name) for name in names}
    assert distribution.package_dir == {"snn_perception_plugins": "plugins"}


def test_every_command_module_has_its_script(distribution):
    def defines_main(path: Path) -> bool:
        return any(
            isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body
        )

    scripts = entry_points(distribution, "console_scripts")
    commands = {path.stem for path in (ROOT / "snn_perception" / "cli").glob("[a-z]*.py") if defines_main(path)}
    nodes = {path.stem for path in (ROOT / "snn_perception" / "ros").glob("*_node.py")}
    assert set(scripts) == commands | nodes
    # `python -m snn_perception COMMAND` and the scripts name the same modules.
    from snn_perception.cli import COMMANDS

    assert {name: f"{module}:main" for name, (module, _) in COMMANDS.items()}.items() <= scripts.items()
    for command, target in scripts.items():
        assert target == f"snn_perception.{'ros' if command in nodes else 'cli'}.{command}:main"


def test_every_plugin_is_registered(distribution):
    """A module under plugins/ with hooks is an entry point; one without them belongs to a plugin package."""
    modules = (
        path for path in (ROOT / "plugins").glob("[a-z]*") if path.suffix == ".py" or (path / "__init__.py").exists()
    )
    with_hooks = set()
    for module in modules:
        text = (module if module.suffix == ".py" else module / "__init__.py").read_text()
        if re.search(r"^@hookimpl", text, re.MULTILINE):
            with_hooks.add(module.stem)
    expected = {name: f"snn_perception_plugins.{name}" for name in with_hooks}
    assert entry_points(distribution, "snn_perception.plugins") == expected


def test_every_entry_point_loads(distribution):
    for group in ("console_scripts", "snn_perception.plugins"):
        for name, target in entry_points(distribution, group).items():
            module, _, attribute = target.partition(":")
            if module.startswith("snn_perception.ros."):
                pytest.importorskip("rclpy")
            loaded = importlib.import_module(module)
            assert not attribute or callable(getattr(loaded, attribute)), f"{name} = {target}"


def test_environment_knows_the_entry_points(distribution):
    """The editable install is as new as setup.py; `make setup` renews it."""
    installed = importlib.metadata.distribution("snn_perception").entry_points
    for group in ("console_scripts", "snn_perception.plugins"):
        found = {entry.name: entry.value for entry in installed if entry.group == group}
        assert found == entry_points(distribution, group)


def test_torch_is_left_to_the_user(distribution):
    required = {re.split(r"[<>=!~ ;\[]", line)[0] for line in distribution.install_requires}
    assert not required & {"torch", "spikingjelly", "torchvision"}
    assert {"torch", "video", "onnx", "test"} <= set(distribution.extras_require)


def test_pyproject_has_no_project_table():
    """With one, colcon drops every entry point and says nothing."""
    assert not re.search(r"^\[project", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_package_xml_is_valid():
    catkin_package = pytest.importorskip("catkin_pkg.package")
    package = catkin_package.parse_package(str(ROOT / "package.xml"))  # raises where the file breaks REP 149
    assert (package.name, package.package_format) == ("snn_perception", 3)
    assert [export.content for export in package.exports if export.tagname == "build_type"] == ["ament_python"]
    named = {depend.name for depend in [*package.exec_depends, *package.test_depends]}
    assert named <= ROSDEP_KEYS | ROS_PACKAGES
    assert {"rclpy", "vision_msgs", "event_camera_msgs", "launch", "launch_ros", "python3-pytest"} <= named


def test_package_xml_names_every_ros_package_in_use():
    sources = [*(ROOT / "snn_perception").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    imported = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    ros = {name for name in imported if name in ROS_PACKAGES or name.endswith(("_msgs", "_srvs", "_interfaces"))}
    declared = set(re.findall(r"<exec_depend>(\w+)</exec_depend>", (ROOT / "package.xml").read_text()))
    assert ros <= declared


def test_versions_agree(distribution):
    import snn_perception

    in_changelog = re.search(r"^## .*?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    in_package_xml = re.search(r"<version>(.+?)</version>", (ROOT / "package.xml").read_text())
    assert in_changelog and in_package_xml
    versions = {
        "setup.py": distribution.metadata.version,
        "package.xml": in_package_xml[1],
        "snn_perception.__version__": snn_perception.__version__,
        "CHANGELOG.md": in_changelog[1],
    }
    assert len(set(versions.values())) == 1, versions


# The names are taken apart, so that this file does not contain what it looks for.
FOREIGN = {
    "a folder of one machine": r"(?<![\w.])/(wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)/|/op[t]/(?!ros\b|python/)",
    "a package registry": r"pyp[i]\.(org|python\.org)|python[h]osted|--(extra-)?inde[x]-url|--find-link[s]",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_no_file_names(what):
    found = []
    for name in source_files():
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # arrays and recordings
            continue
        found += [
            f"{name}:{number}: {line[:120]}" for number, line in enumerate(lines, 1) if re.search(FOREIGN[what], line)
        ]
    assert not found, "\n".join(found)


# ------------------------------------------------------------------------------------------------------- colcon builds

# What a user's workspace does not need for a build is left out, to keep the copy small.
NOT_COPIED = {".git", ".venv", "build", "install", "log", "demo", "docs", "tests"}


def copy_tree(destination: Path) -> Path:
    def left_out(folder: str, names: list[str]) -> set[str]:
        generated = {name for name in names if name == "__pycache__" or name.endswith((".egg-info", "_cache"))}
        return generated | (NOT_COPIED & set(names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, destination, ignore=left_out)
    return destination


def colcon(*arguments: str, cwd: Path) -> str:
    return run(sys.executable, "-m", "colcon", "--log-base", "log", *arguments, cwd=cwd)


@pytest.fixture(scope="module", params=["plain", "symlink"])
def workspace(request, tmp_path_factory):
    """Return (workspace, kind): a colcon workspace with a copy of this package under src/, built."""
    pytest.importorskip("colcon_core")
    workspace = tmp_path_factory.mktemp(f"colcon_{request.param}")
    copy_tree(workspace / "src" / "snn_perception")
    options = ["--symlink-install"] if request.param == "symlink" else []
    colcon("build", *options, cwd=workspace)
    return workspace, request.param


def in_install_space(workspace: Path, command: str) -> str:
    """Return what a shell command prints after the workspace's set-up file was sourced."""
    return run("bash", "-c", f". install/setup.bash && {command}", cwd=workspace)


def test_colcon_sees_an_ament_python_package(tmp_path):
    pytest.importorskip("colcon_core")
    copy_tree(tmp_path / "snn_perception")
    # An invalid package.xml would silently make it "python". The message packages under interfaces/ must stay hidden.
    assert colcon("list", cwd=tmp_path).split() == ["snn_perception", "snn_perception", "(ros.ament_python)"]


def test_install_space_is_complete(workspace, distribution):
    folder, kind = workspace
    prefix = folder / "install" / "snn_perception"
    share = prefix / "share"
    scripts = {path.name for path in (prefix / "lib" / "snn_perception").iterdir()}
    assert scripts == set(entry_points(distribution, "console_scripts"))
    assert (share / "ament_index" / "resource_index" / "packages" / "snn_perception").exists()
    assert (share / "snn_perception" / "package.xml").exists()
    for name in ("launch", "config", "config/sros2"):
        sources = {path.name for path in (ROOT / name).glob("*") if path.suffix in (".py", ".yaml", ".xml")}
        installed = share / "snn_perception" / name
        found = installed.iterdir() if installed.exists() else ()
        assert {path.name for path in found if path.is_file()} == sources
    if kind == "plain":
        assert list(prefix.glob("lib/python3*/site-packages/snn_perception/py.typed"))


def test_package_comes_from_the_install_space(workspace):
    folder, kind = workspace
    code = """
import importlib.metadata, json, snn_perception, snn_perception_plugins
points = importlib.metadata.entry_points(group="snn_perception.plugins")
print(json.dumps({
    "files": [snn_perception.__file__, snn_perception_plugins.__file__],
    "plugins": {point.name: point.load().__file__ for point in points},
}))"""
    found = json.loads(in_install_space(folder, f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"))
    # Plainly built it is a copy; with symlinks it leads to the sources of the workspace. Never to this checkout.
    home = folder / ("install" if kind == "plain" else "")
    for file in [*found["files"], *found["plugins"].values()]:
        assert Path(file).is_relative_to(home), file
    assert set(found["plugins"]) >= {"neurons", "no_reset", "ssd"}


def test_native_kernels_come_with_the_package(workspace):
    """The source is installed, so that they can be built later; and the library, where a compiler is there."""
    folder, _ = workspace
    code = """
import json
from pathlib import Path
from snn_perception import native
from snn_perception.native import build, library
loaded = library.load()[0]
print(json.dumps([native.why_not(), loaded and str(loaded.path), len(list(build.SOURCE.iterdir()))]))"""
    reason, path, sources = json.loads(
        in_install_space(folder, f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}")
    )
    assert sources == len(list((ROOT / "snn_perception" / "native" / "source").iterdir()))
    if reason is not None:
        pytest.skip(reason)
    assert Path(path).is_relative_to(folder)


def test_commands_run_from_the_install_space(workspace):
    folder, _ = workspace
    scripts = "install/snn_perception/lib/snn_perception"
    assert "usage" in in_install_space(folder, f"{scripts}/inspect --help").lower()
    listing = json.loads(in_install_space(folder, f"{scripts}/plugins --json"))
    assert {"neurons", "no_reset", "ssd"} <= set(re.findall(r"\w+", json.dumps(listing)))
    for module in ("inspect", "plugins"):
        in_install_space(folder, f"{shlex.quote(sys.executable)} -m snn_perception {module} --help")


@pytest.mark.ros
@pytest.mark.parametrize("workspace", ["plain"], indirect=True)
def test_node_runs_from_the_install_space(workspace, monkeypatch):
    rclpy = pytest.importorskip("rclpy")
    folder, _ = workspace
    # Before rclpy starts, here and in the child: stay on this machine, away from other tests.
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    context = rclpy.Context()
    rclpy.init(context=context)
    observer = rclpy.create_node("packaging_observer", context=context)
    script = "install/snn_perception/lib/snn_perception/detector_node --ros-args -r __node:=installed_detector"
    node = subprocess.Popen(["bash", "-c", f". install/setup.bash && exec {script}"], cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while "installed_detector" not in observer.get_node_names():
            assert node.poll() is None, f"the node ended with {node.returncode}"
            assert time.monotonic() < deadline, "the node did not appear"
            time.sleep(0.05)
        node.send_signal(signal.SIGINT)
        assert node.wait(timeout=30) == 0
    finally:
        node.kill()
        node.wait()
        observer.destroy_node()
        context.try_shutdown()

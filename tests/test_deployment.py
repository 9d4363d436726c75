"""Containers and service: every file they name is there, every command exists, and what needs no engine is tried."""

import configparser
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

from tests.paths import ROOT
from tests.test_packaging import distribution, entry_points  # noqa: F401  (a fixture)

DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("Dockerfile*"))
UNIT = ROOT / "deploy" / "systemd" / "snn-perception.service"
ENVIRONMENT = ROOT / "deploy" / "systemd" / "environment"
WRAPPER = ROOT / "deploy" / "with_ros.sh"
INSTRUCTIONS = {
    *("ARG", "FROM", "SHELL", "RUN", "COPY", "USER", "ENV", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR")
}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, its text on one line) of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def texts(path: Path, name: str) -> list[str]:
    return [text for instruction, text in instructions(path) if instruction == name]


def exec_form(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


def copied(path: Path) -> dict[str, str]:
    """Return source -> destination of everything that a Dockerfile copies."""
    found = {}
    for text in texts(path, "COPY"):
        *sources, destination = text.split()
        for source in sources:
            inside = destination.endswith("/") or len(sources) > 1
            found[source] = destination.rstrip("/") + (f"/{Path(source).name}" if inside else "")
    return found


def parameters_in(arguments: list[str]) -> dict[str, str]:
    pairs = [arguments[at + 1] for at, argument in enumerate(arguments) if argument == "-p"]
    return dict(pair.split(":=", 1) for pair in pairs)


def test_there_is_a_file_for_each_machine():
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.jetson"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def test_it_is_one(self, path):
        kinds = [instruction for instruction, _ in instructions(path)]
        assert set(kinds) <= INSTRUCTIONS
        assert kinds[0] == "ARG" and kinds.count("FROM") == kinds.count("CMD") == kinds.count("ENTRYPOINT") == 1
        assert kinds.index("USER") < kinds.index("CMD"), "it does not run as the superuser"
        assert "USER root" not in path.read_text()

    def test_what_it_copies_is_there(self, path):
        sources = copied(path)
        assert "." not in sources, "that would take the environment and the results along"
        missing = [source for source in sources if not (ROOT / source).exists()]
        assert not missing

    def test_it_copies_what_the_installation_needs(self, path):
        needed = {"setup.py", "setup.cfg", "package.xml", "snn_perception", "plugins"}
        needed |= set(re.findall(r'glob\("(\w+)/', (ROOT / "setup.py").read_text())) | {"resource"}
        assert needed <= copied(path).keys() and len(needed) >= 8

    def test_files_that_its_steps_name_were_copied_before(self, path):
        """Every path below its folder: copied, made by an earlier step, or of the installation."""
        made, checked = {"/srv/snn_perception"}, 0
        share = "/srv/snn_perception/install/share/snn_perception/"
        for instruction, text in instructions(path):
            made |= set(re.findall(r"(?:>|venv --system-site-packages|ln -s \S+|mkdir -p \S+ \S+) (/srv/\S+)", text))
            if instruction == "COPY":
                made |= {destination for source, destination in copied(path).items() if source in text.split()}
                continue
            if "colcon build" in text:
                made.add("/srv/snn_perception/install")
            for name in re.findall(r"/srv/[\w./-]+", text):
                checked += 1
                if name.startswith(share):
                    assert (ROOT / name.removeprefix(share)).is_file(), name
                else:
                    assert any(
                        name == known or name.startswith(f"{known}/") for known in made - {"/srv/snn_perception"}
                    ) or (name == "/srv/snn_perception"), name
        assert checked > 8

    def test_its_commands_exist(self, path, distribution):  # noqa: F811
        scripts = entry_points(distribution, "console_scripts")
        [entry], [health], [command] = texts(path, "ENTRYPOINT"), texts(path, "HEALTHCHECK"), texts(path, "CMD")
        wrapper, name, *_ = exec_form(health)
        assert exec_form(entry) == [wrapper] == [copied(path)["deploy/with_ros.sh"]]
        assert name in scripts and exec_form(command)[0] in scripts

    def test_its_parameters_exist(self, path):
        pytest.importorskip("rclpy")
        from snn_perception.ros.parameters import BY_NAME

        [command] = texts(path, "CMD")
        given = parameters_in(exec_form(command))
        assert {"checkpoint", "autostart", "state_dir"} <= given.keys() <= BY_NAME.keys()


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",), comment_prefixes=("#",))
    parsed.optionxform = str
    parsed.read_string(path.read_text())
    return parsed


def test_the_unit_starts_a_command_that_exists(distribution):  # noqa: F811
    parsed = unit(UNIT)
    assert set(parsed.sections()) == {"Unit", "Service", "Install"}
    wrapper, name, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    assert Path(wrapper).name == WRAPPER.name and os.access(WRAPPER, os.X_OK)
    assert name in entry_points(distribution, "console_scripts")
    variables = set(re.findall(r"\$\{(\w+)\}", parsed["Service"]["ExecStart"]))
    assert variables == {"SNN_EVENTS"} and variables <= environment().keys()
    assert arguments[arguments.index("--params-file") + 1].endswith("/detector.yaml")


def test_the_units_parameters_exist():
    pytest.importorskip("rclpy")
    from snn_perception.ros.parameters import BY_NAME

    given = parameters_in(shlex.split(unit(UNIT)["Service"]["ExecStart"]))
    assert {"autostart", "state_dir"} <= given.keys() <= BY_NAME.keys()
    service = unit(UNIT)["Service"]
    assert given["state_dir"] == f"/var/lib/{service['StateDirectory']}", "the folder that systemd makes for its user"
    assert environment()["NUMBA_CACHE_DIR"] == f"/var/cache/{service['CacheDirectory']}"


def test_it_comes_back_within_the_seconds_that_a_vehicle_allows():
    service = unit(UNIT)["Service"]
    assert service["Restart"] == "always" and float(service["RestartSec"]) <= 1
    burst, interval = (float(unit(UNIT)["Unit"][f"StartLimit{name}"]) for name in ("Burst", "IntervalSec"))
    assert burst * float(service["RestartSec"]) < interval, "a node that cannot start is given up one day"


def environment() -> dict[str, str]:
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_environment_names_files_that_are_installed():
    found = environment()
    share = found["FASTDDS_DEFAULT_PROFILES_FILE"].partition("/share/snn_perception/")[2]
    assert (ROOT / share).is_file()
    assert found["SNN_SETUP"].count(":") == 1 and found["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_systemd_takes_the_unit_and_the_drop_in(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here; the unit was read with configparser")
    text = UNIT.read_text()
    installed = shlex.split(unit(UNIT)["Service"]["ExecStart"])[0]
    (tmp_path / UNIT.name).write_text(text.replace(installed, str(WRAPPER)))  # where it is in this checkout
    (tmp_path / f"{UNIT.name}.d").mkdir()
    shutil.copy(UNIT.with_name("realtime.conf"), tmp_path / f"{UNIT.name}.d")

    def verify() -> subprocess.CompletedProcess:
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
        return subprocess.run(command, capture_output=True, text=True)

    told = verify()
    assert told.returncode == 0 and UNIT.name not in told.stderr, told.stderr
    (tmp_path / UNIT.name).write_text(text.replace(installed, str(WRAPPER)).replace("RestartSec=1", "RestartSecs=1"))
    assert "RestartSecs" in verify().stderr, "a misspelt key is seen"


# ---- the wrapper that both start


def wrapped(*command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run([str(WRAPPER), *command], capture_output=True, text=True, env=environment)


def test_the_wrapper_sources_in_order_and_finds_the_packages_commands(tmp_path):
    commands = tmp_path / "install" / "lib" / "snn_perception"
    commands.mkdir(parents=True)
    (commands / "detector_node").write_text('#!/bin/sh\necho "$ORDER" "$@"\nexit 7\n')
    (commands / "detector_node").chmod(0o755)
    (tmp_path / "first.bash").write_text("export ORDER=first\n")
    (tmp_path / "second.bash").write_text(
        f'export ORDER="$ORDER second"\nexport AMENT_PREFIX_PATH={tmp_path}/none:{tmp_path}/install\n'
    )
    done = wrapped("detector_node", "a b", "c", SNN_SETUP=f"{tmp_path}/first.bash:{tmp_path}/second.bash")
    assert (done.returncode, done.stdout) == (7, "first second a b c\n"), done.stderr


def test_the_wrapper_says_what_is_missing(tmp_path):
    done = wrapped("detector_node", SNN_SETUP=f"{tmp_path}/none.bash")
    assert done.returncode == 1 and f"no set-up file '{tmp_path}/none.bash'" in done.stderr
    (tmp_path / "empty.bash").write_text("")
    done = wrapped("no_such_node", SNN_SETUP=f"{tmp_path}/empty.bash")
    assert done.returncode == 1 and "no command 'no_such_node'" in done.stderr
    assert wrapped(SNN_SETUP=f"{tmp_path}/empty.bash").returncode != 0


@pytest.mark.slow
@pytest.mark.ros
def test_what_the_container_copies_builds_and_its_health_check_sees_the_node(tmp_path, monkeypatch):
    """The steps of the Dockerfile that need no engine: copy, build, start, look, end by SIGTERM."""
    pytest.importorskip("rclpy")
    pytest.importorskip("colcon_core")
    dockerfile = DOCKERFILES[0]
    root = tmp_path / "image"
    for source, destination in copied(dockerfile).items():
        target = root / destination.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    home = root / "srv" / "snn_perception"
    [build] = [text for text in texts(dockerfile, "RUN") if "colcon build" in text]
    command = build.rpartition("python -m ")[2].split()
    subprocess.run([sys.executable, "-m", *command], cwd=home, check=True, capture_output=True)

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 17) % 101))
    monkeypatch.setenv("SNN_SETUP", str(home / "install" / "setup.bash"))  # ROS itself is this environment's
    [command], [health] = texts(dockerfile, "CMD"), texts(dockerfile, "HEALTHCHECK")
    here = [part.replace("/srv/snn_perception", str(home)) for part in exec_form(command)]
    (tmp_path / "state").mkdir()
    here = [part.replace(":=/state", f":={tmp_path}/state") for part in here]
    check = [part.replace("/srv/snn_perception", str(home)) for part in exec_form(health)]
    assert subprocess.run(check, capture_output=True, timeout=120).returncode == 1, "nobody is there yet"
    with (tmp_path / "node.log").open("wb") as log:
        node = subprocess.Popen([home / "with_ros.sh", *here], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while "active, listening on" not in (tmp_path / "node.log").read_text():
            assert node.poll() is None and time.monotonic() < deadline, (tmp_path / "node.log").read_text()
            time.sleep(0.2)
        seen = subprocess.run(check, capture_output=True, text=True, timeout=120)
        assert seen.returncode == 0 and "detector" in seen.stdout, seen.stderr
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0, "the node itself gets the signal, not a shell around it"
    finally:
        node.kill()
        node.wait()

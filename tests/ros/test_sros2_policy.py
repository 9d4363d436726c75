"""The SROS2 policy names what the processes use, all of it and nothing besides; found over DDS on running nodes."""

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import pytest
import rclpy

from snn_perception.data.shapes import MovingShapes
from snn_perception.events.dat_writer import write_dat
from snn_perception.ros.launching import DETECTOR_ARGUMENTS, PLAYER_ARGUMENTS, detector_node, player_node, typed
from snn_perception.types import SensorSize
from tests.paths import ROOT
from tests.ros.process_support import observer, spin_until, started

POLICY = ROOT / "config" / "sros2" / "snn_perception.policy.xml"
KINDS = {
    ("topics", "publish"): "publishers",
    ("topics", "subscribe"): "subscriptions",
    ("services", "reply"): "services",
    ("services", "request"): "clients",
}
DEFAULTS = {name: default for name, (default, _) in {**DETECTOR_ARGUMENTS, **PLAYER_ARGUMENTS}.items()}


@dataclass(frozen=True)
class Uses:
    """Full names of what a node uses, or may use."""

    publishers: frozenset[str] = frozenset()
    subscriptions: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()

    def named(self, pid: int) -> "Uses":
        """Return these for a node whose name ends in its process's number."""
        return Uses(*(frozenset(name.replace("_*/", f"_{pid}/") for name in names) for names in vars(self).values()))


def allowed(enclave: str) -> tuple[str, Uses]:
    """Return (node, what it may use) of an enclave with one profile."""
    [profile] = ET.parse(POLICY).getroot().findall(f"./enclaves/enclave[@path='{enclave}']/profiles/profile")
    assert profile.get("ns") == "/"
    found = {}
    for part in profile:
        [(attribute, value)] = part.attrib.items()
        assert value == "ALLOW"
        names = [name.text for name in part]
        assert {name.tag for name in part} == {part.tag[:-1]} and len(set(names)) == len(names)
        assert all(name.startswith("/") for name in names)
        assert KINDS[part.tag, attribute] not in found, "one list of each kind"
        found[KINDS[part.tag, attribute]] = frozenset(names)
    return profile.get("node"), Uses(**found)


def used(node, name: str) -> Uses:
    """Return what the graph says of a running node; nothing of one whose name is not known yet."""
    if name not in node.get_node_names():
        return Uses()

    def names(kind: str) -> frozenset[str]:
        return frozenset(found for found, _ in getattr(node, f"get_{kind}_names_and_types_by_node")(name, "/"))

    return Uses(names("publisher"), names("subscriber"), names("service"), names("client"))


def settled(node, executor, name: str, may: Uses, patience_s: float = 20.0) -> Uses:
    """Return what a node uses, once it has not changed for a second: discovery tells of one thing after the other.

    While something that it may use is missing, more patience is due: the machine may be busy.
    """
    begin = since = time.monotonic()
    seen = used(node, name)
    while time.monotonic() - since < 1.0 or (seen != may and time.monotonic() - begin < patience_s):
        executor.spin_once(timeout_sec=0.1)
        now = used(node, name)
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


@pytest.fixture
def own_domain_of_this_test(monkeypatch):
    """Nodes have their final names here: nobody else's may be around."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + (os.getpid() + 50) % 101))


def with_simulated_time(launched):
    """Return a launched node that also follows /clock, which every node may be told to."""
    launched["parameters"][-1]["use_sim_time"] = True
    return launched


def test_the_file_is_a_policy():
    root = ET.parse(POLICY).getroot()
    assert (root.tag, root.get("version")) == ("policy", "0.2.0")
    paths = [enclave.get("path") for enclave in root.iter("enclave")]
    assert paths == ["/snn_perception/detector", "/snn_perception/player", "/snn_perception/tools"]


def test_the_detector_may_do_what_it_does(checkpoint, tmp_path, own_domain_of_this_test):
    name, may = allowed("/snn_perception/detector")
    values = typed({**DEFAULTS, "checkpoint": str(checkpoint)})
    launched = with_simulated_time(detector_node(values, str(ROOT / "launch" / "detector.yaml")))
    with observer("policy_observer") as (node, executor), started(launched, tmp_path) as process:

        def is_active():
            assert process.poll() is None, (tmp_path / "detector.log").read_text()
            return node.count_subscribers(DEFAULTS["events"]) == 1

        spin_until(executor, is_active)
        uses = settled(node, executor, name, may)
    assert len(uses.publishers) > 5 and len(uses.services) > 10, "an empty list proves nothing"
    assert uses == may


def test_the_player_may_do_what_it_does(tmp_path, own_domain_of_this_test):
    name, may = allowed("/snn_perception/player")
    write_dat(tmp_path / "a.dat", MovingShapes(SensorSize(48, 64), 50_000, seed=1), SensorSize(48, 64))
    launched = with_simulated_time(player_node(typed({**DEFAULTS, "recording": str(tmp_path / "a.dat")})))
    with observer("policy_observer") as (node, executor), started(launched, tmp_path) as process:

        def is_there():
            assert process.poll() is None, (tmp_path / "player.log").read_text()
            return node.count_publishers(DEFAULTS["events"]) == 1

        spin_until(executor, is_there)  # it waits for a subscription, and so stays
        uses = settled(node, executor, name, may)
    assert uses.publishers and uses == may


def test_the_monitor_may_do_what_it_does(checkpoint, tmp_path, own_domain_of_this_test):
    _, may = allowed("/snn_perception/tools")
    values = typed({**DEFAULTS, "checkpoint": str(checkpoint)})
    launched = detector_node(values, str(ROOT / "launch" / "detector.yaml"))
    command = [sys.executable, "-m", "snn_perception", "monitor", "--json", "--period", "0.2"]
    with observer("policy_observer") as (node, executor), started(launched, tmp_path):
        spin_until(executor, lambda: node.count_subscribers(DEFAULTS["events"]) == 1)
        with (tmp_path / "monitor.out").open("wb") as out:
            monitor = subprocess.Popen(command, cwd=ROOT, stdout=out)
        name = f"monitor_{monitor.pid}"
        try:

            def asks():
                assert monitor.poll() is None
                return used(node, name).clients

            spin_until(executor, asks)
            uses = settled(node, executor, name, may.named(monitor.pid))
        finally:
            monitor.terminate()
            monitor.wait(30)
    assert uses == may.named(monitor.pid) != may
    assert "/detector" in (tmp_path / "monitor.out").read_text(), "it saw the node with that alone"


# ---- enforcement

_MAKE_NODE = """
import rclpy
rclpy.init(args=["probe", "--ros-args", "--enclave", "/probe"])
rclpy.create_node("probe")
"""


def security_error(tmp_path) -> str:
    """Return what the installed DDS says when a node must be secure and its enclave's keys are missing."""
    (tmp_path / "enclaves" / "probe").mkdir(parents=True)
    environment = {
        **os.environ,
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", _MAKE_NODE], env=environment, capture_output=True, text=True)
    assert done.returncode, "a node without keys must never come up where security is enforced"
    return done.stderr


def test_without_keys_no_node_comes_up_where_security_is_enforced(tmp_path):
    assert "error creating node" in security_error(tmp_path)


def test_an_enforced_node_is_heard_by_its_peers_and_by_nobody_else(tmp_path, checkpoint, monkeypatch):
    if "doesn't have the security libraries" in security_error(tmp_path / "probe"):
        pytest.skip("the installed DDS was built without its security plugins (ROS's wheels are)")
    pytest.importorskip("sros2", reason="needs sros2, of a ROS installation, to make keys")
    keys = tmp_path / "keys"
    make = ["ros2", "security", "generate_artifacts", "-k", str(keys), "-p", str(POLICY)]
    subprocess.run(make, check=True)
    for name, value in (("ENABLE", "true"), ("STRATEGY", "Enforce"), ("KEYSTORE", str(keys))):
        monkeypatch.setenv(f"ROS_SECURITY_{name}", value)
    monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/snn_perception/detector")
    launched = detector_node(typed({**DEFAULTS, "checkpoint": str(checkpoint)}), str(ROOT / "launch" / "detector.yaml"))
    with started(launched, tmp_path) as process:
        monkeypatch.setenv("ROS_SECURITY_ENCLAVE_OVERRIDE", "/snn_perception/tools")
        command = [sys.executable, "-m", "snn_perception", "monitor", "--once", "--json", "--timeout", "60"]
        seen = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert process.poll() is None, (tmp_path / "detector.log").read_text()
        assert seen.returncode == 0 and json.loads(seen.stdout)["cameras"], seen.stderr
        monkeypatch.setenv("ROS_SECURITY_ENABLE", "false")
        stranger = rclpy.Context()
        rclpy.init(context=stranger)
        node = rclpy.create_node("stranger", context=stranger)
        time.sleep(3.0)
        assert "detector" not in node.get_node_names()
        node.destroy_node()
        stranger.try_shutdown()

"""What the launch files start, as plain data; and the files themselves where ROS's `launch` is installed."""

import importlib.util
from importlib.metadata import entry_points

import pytest

from snn_perception.ros.launching import DETECTOR_ARGUMENTS, PLAYER_ARGUMENTS, detector_node, player_node, typed
from snn_perception.ros.parameters import BY_NAME
from tests.paths import ROOT

ALL = {name: default for name, (default, _) in {**DETECTOR_ARGUMENTS, **PLAYER_ARGUMENTS}.items()}


def test_the_detector_is_started_with_parameters_it_has_and_topics_the_user_named():
    values = typed({**ALL, "checkpoint": "m.safetensors", "events": "/cam/events", "score_threshold": "0.4"})
    node = detector_node(values, "detector.yaml")
    file, overrides = node["parameters"]
    assert file == "detector.yaml"
    assert overrides.keys() <= BY_NAME.keys()
    assert overrides == {"checkpoint": "m.safetensors", "score_threshold": 0.4, "autostart": True}
    assert all(type(value) is type(BY_NAME[name].default) for name, value in overrides.items())
    assert ("events", "/cam/events") in node["remappings"]
    assert ("image", "/camera/image_raw") in node["remappings"]
    assert (node["package"], node["executable"], node["name"]) == ("snn_perception", "detector_node", "detector")


def test_images_are_asked_for_by_type_and_topic():
    values = typed({**ALL, "input_type": "image", "image": "/front/image_color", "recording": "bag"})
    node = detector_node(values, "detector.yaml")
    assert node["parameters"][1] == {"input_type": "image", "autostart": True}
    for started in (node, player_node(values)):
        assert ("image", "/front/image_color") in started["remappings"], "both sides meet on it"


def test_a_parameter_file_of_the_users_stands_in_for_ours():
    node = detector_node(typed({**ALL, "params_file": "mine.yaml"}), "detector.yaml")
    assert node["parameters"] == ["mine.yaml", {"autostart": True}], "defaults must not overrule the user's file"


def test_the_player_gets_typed_values():
    node = player_node(typed({**ALL, "recording": "a.dat", "rate": "2", "loop": "true"}))
    assert node["parameters"] == [{"recording": "a.dat", "rate": 2.0, "loop": True}]
    assert node["executable"] == "player_node"


def test_every_executable_is_a_console_script_of_the_package():
    scripts = {
        point.name for point in entry_points(group="console_scripts") if point.value.startswith("snn_perception.")
    }
    assert {"detector_node", "player_node"} <= scripts


@pytest.mark.parametrize("name", ["detector.launch.py", "replay.launch.py"])
def test_the_launch_file_runs(name):
    if importlib.util.find_spec("launch") is None or importlib.util.find_spec("launch_ros") is None:
        pytest.skip("ROS's launch is not installed here (it is in no wheel); needs a ROS installation")
    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("launch_file", ROOT / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    context = LaunchContext()
    started = [part for entity in description.entities for part in entity.visit(context) or []]
    assert started

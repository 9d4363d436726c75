"""Installation of snn_perception for colcon (ament_python) and pip.

All package data is here and not in a ``[project]`` table of pyproject.toml: with such a table colcon
would silently install the package without any of its entry points.
"""

from glob import glob

from setuptools import find_packages, setup

NAME = "snn_perception"
VERSION = "0.1.0"

# Command -> module whose `main` it runs. Each is a console script, so `ros2 run snn_perception <command>` finds it.
COMMANDS = {
    "convert": "snn_perception.cli.convert",
    "doctor": "snn_perception.cli.doctor",
    "evaluate": "snn_perception.cli.evaluate",
    "inspect": "snn_perception.cli.inspect",
    "plugins": "snn_perception.cli.plugins",
    "replay": "snn_perception.cli.replay",
    "synth": "snn_perception.cli.synth",
    "train": "snn_perception.cli.train",
    "detector_node": "snn_perception.ros.detector_node",
    "player_node": "snn_perception.ros.player_node",
}

# Plugin name -> module with its hooks. They register exactly as a stranger's plugin would.
PLUGINS = {
    "neurons": "snn_perception_plugins.neurons",
    "no_reset": "snn_perception_plugins.no_reset",
    "ssd": "snn_perception_plugins.ssd",
    "eas_snn": "snn_perception_plugins.eas_snn",
    "spikeyolo": "snn_perception_plugins.spikeyolo",
    "datasets": "snn_perception_plugins.datasets",
}

core_packages = find_packages(include=["snn_perception", "snn_perception.*"])
plugin_packages = [
    name.replace("plugins", "snn_perception_plugins", 1) for name in find_packages(include=["plugins", "plugins.*"])
]

setup(
    name=NAME,
    version=VERSION,
    description="Spiking-neural-network object detectors for event cameras in ROS 2",
    maintainer="snn_perception maintainers",
    maintainer_email="maintainers@users.noreply.h-seed-45e2929f.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=core_packages + plugin_packages,
    package_dir={"snn_perception_plugins": "plugins"},
    package_data={"snn_perception": ["py.typed", "weights/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py") + glob("launch/*.yaml"))),
        (f"share/{NAME}/recipes", sorted(glob("recipes/*.yaml"))),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml") + glob("config/*.xml"))),
    ],
    zip_safe=False,
    # torch and spikingjelly are left to the user on purpose: their default resolution pulls several gigabytes of
    # CUDA packages, and a robot often has a vendor's build of torch already. `pip install .[torch]` asks for them.
    install_requires=[
        "setuptools",
        "numpy>=1.26",
        "numba",
        "h5py",
        "hdf5plugin",
        "pluggy>=0.13",
        "pycocotools",
        "safetensors",
        "PyYAML",
        "rosbags>=0.10",
        "zstandard",
        "lz4",
        "rich",
        "matplotlib",
        "pillow",
    ],
    extras_require={
        "torch": ["torch>=2.1", "spikingjelly>=0.0.0.0.14"],
        "video": ["av"],
        "onnx": ["onnx", "onnxruntime"],
        "ray": ["ray>=2.9"],
        "tensorboard": ["tensorboard"],
        "test": ["pytest", "mcap"],
    },
    entry_points={
        "console_scripts": [f"{command} = {module}:main" for command, module in COMMANDS.items()],
        "snn_perception.plugins": [f"{name} = {module}" for name, module in PLUGINS.items()],
    },
)

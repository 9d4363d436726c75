"""Installation of snn_perception for colcon (ament_python) and pip.

All package data is here and not in a ``[project]`` table of pyproject.toml: with such a table colcon
would silently install the package without any of its entry points.
"""

import runpy
import warnings
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools below 70.1; without the package wheel nothing makes one either
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:
        bdist_wheel = None

NAME = "snn_perception"
VERSION = "0.1.0"

# Command -> module whose `main` it runs. Each is a console script, so `ros2 run snn_perception <command>` finds it.
COMMANDS = {
    "bench": "snn_perception.cli.bench",
    "convert": "snn_perception.cli.convert",
    "doctor": "snn_perception.cli.doctor",
    "evaluate": "snn_perception.cli.evaluate",
    "export": "snn_perception.cli.export",
    "inspect": "snn_perception.cli.inspect",
    "monitor": "snn_perception.cli.monitor",
    "soak": "snn_perception.cli.soak",
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

# Compiles the optional native kernels; run from its file, since the package is not installed yet.
native = runpy.run_path("snn_perception/native/build.py")


def build_kernels(folder):
    """Return the library that was built into a folder; none, with a warning, where that does not work."""
    try:
        return [str(native["build"](folder))]
    except native["BuildError"] as error:
        warnings.warn(f"native kernels not built, everything works without them: {error}", stacklevel=2)
        return []


class BuildWithKernels(build_py):
    """Also compiles the kernels: into the build, or beside their source for an editable install."""

    def run(self):
        super().run()
        editable = getattr(self, "editable_mode", False)
        built = build_kernels(native["HERE"] if editable else Path(self.build_lib, NAME, "native"))
        self.kernels = [] if editable else built

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), *getattr(self, "kernels", [])]


class DevelopWithKernels(develop):
    """Also compiles the kernels, beside their source; this is how colcon builds with symlinks."""

    def run(self):
        super().run()
        if not self.uninstall:
            build_kernels(native["HERE"])


COMMAND_CLASSES = {"build_py": BuildWithKernels, "develop": DevelopWithKernels}

if bdist_wheel is not None:

    class PlatformWheel(bdist_wheel):
        """A wheel for any Python on this kind of machine: the kernels know the machine, not Python."""

        def get_tag(self):
            self.root_is_pure = False  # in the tag alone; the files stay where those of a pure package go
            try:
                return "py3", "none", super().get_tag()[2]
            finally:
                self.root_is_pure = True

    COMMAND_CLASSES["bdist_wheel"] = PlatformWheel

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
    package_data={"snn_perception": ["py.typed", "weights/*", "native/source/*"]},
    cmdclass=COMMAND_CLASSES,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py") + glob("launch/*.yaml"))),
        (f"share/{NAME}/recipes", sorted(glob("recipes/*.yaml"))),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml") + glob("config/*.xml"))),
        (f"share/{NAME}/config/sros2", sorted(glob("config/sros2/*.xml"))),
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
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "openvino": ["openvino", "onnx", "onnxruntime", "onnxscript"],
        "tensorrt": ["tensorrt", "onnx", "onnxruntime", "onnxscript"],
        "ray": ["ray>=2.9"],
        "tensorboard": ["tensorboard"],
        "test": ["pytest", "mcap"],
    },
    entry_points={
        "console_scripts": [f"{command} = {module}:main" for command, module in COMMANDS.items()],
        "snn_perception.plugins": [f"{name} = {module}" for name, module in PLUGINS.items()],
    },
)

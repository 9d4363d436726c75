"""Python, packages, torch, the GPU, spikingjelly and the plugins."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from snn_perception.doctor.finding import Bench, Finding, Skip

if TYPE_CHECKING:
    import torch
    from packaging.specifiers import SpecifierSet

PYTHONS = ((3, 10), (3, 13))  # first and last that are tried
NUMPY_BELOW = 3
DISTRIBUTION = "snn_perception"
REQUIRED_EXTRAS = ("torch",)  # left out of the plain requirements, so that a robot can bring its own build
OPTIONAL = {
    "av": "videos",
    "tensorboard": "train --tensorboard",
    "ray": "work over several machines",
    "onnx": "export",
    "onnxruntime": "export",
}


def python(bench: Bench) -> Finding:
    """Whether the interpreter is one that is tried."""
    version = sys.version_info[:2]
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    facts = {"version": platform.python_version(), "platform": platform.platform()}
    first, last = (".".join(map(str, edge)) for edge in PYTHONS)
    if version < PYTHONS[0]:
        return Finding("failed", told, f"install Python {first} to {last}", facts)
    if version > PYTHONS[1]:
        return Finding("warning", f"{told}: newer than what is tried", f"use Python {first} to {last}", facts)
    return Finding("ok", told, facts=facts)


def packages(bench: Bench, distribution: str = DISTRIBUTION) -> Finding:
    """Whether what the package asks for is installed in versions that it takes."""
    try:
        requirements = list(_requirements(distribution))
    except metadata.PackageNotFoundError:
        return Finding("failed", f"{distribution} is not installed", "run 'make setup', or pip install -e . --no-deps")
    versions, wrong = {}, []
    for name, taken in requirements:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not taken.contains(versions[name], prereleases=True):
            wrong.append(f"{name} {versions[name]} (expected {taken})")
    extra = {name: use for name, use in OPTIONAL.items() if not _is_installed(name)}
    facts = {"versions": versions, "absent": sorted(extra)}
    without = "; ".join(f"without {name} ({use})" for name, use in extra.items())
    if wrong:
        return Finding("failed", ", ".join(wrong), "run 'make setup', or pip install what is named", facts)
    told = f"{DISTRIBUTION} {metadata.version(distribution)}, {len(versions)} required packages in order"
    if int(versions.get("numpy", "0").split(".")[0]) >= NUMPY_BELOW:
        return Finding("warning", f"{told}; NumPy {versions['numpy']} is newer than what is tried", "", facts)
    return Finding("ok", f"{told}; {without}" if without else told, facts=facts)


def _requirements(distribution: str) -> Iterator[tuple[str, SpecifierSet]]:
    """Yield the name and the versions of everything that must be there."""
    from packaging.requirements import Requirement

    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        extras = ["", *REQUIRED_EXTRAS]
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement.name, requirement.specifier


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def torch_build(bench: Bench) -> Finding:
    """Which torch there is, and whether it counts right."""
    import torch

    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8)
    summed = torch.nn.functional.conv2d(x, torch.ones(1, 1, 8, 8)).item()
    capability = torch.backends.cpu.get_cpu_capability()
    facts = {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "cpu": capability,
        "threads": torch.get_num_threads(),
        "mkldnn": torch.backends.mkldnn.is_available(),
    }
    if summed != 2080.0:
        return Finding("failed", f"torch {torch.__version__}: a sum came out as {summed}", "install torch again", facts)
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    return Finding("ok", f"torch {torch.__version__} {build}; processor: {capability}", facts=facts)


def gpu(bench: Bench) -> Finding:
    """Which GPU there is, and whether it computes what the processor does."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        if not driver:
            return Finding("ok", "none: everything runs on the processor", facts={"devices": []})
        why = "can not use it" if torch.version.cuda else "is built for CPUs"
        return Finding("warning", f"{driver}: torch {why}", "install the torch build for your CUDA version")
    devices, furthest = [], 0.0
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        difference = _conv_difference(torch.device("cuda", number))
        furthest = max(furthest, difference)
        devices.append(
            {
                "name": properties.name,
                "memory_gb": round(properties.total_memory / 1e9, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "has_tf32": properties.major >= 8,
                "conv_difference": difference,
            }
        )
    told = ", ".join(f"{device['name']} ({device['memory_gb']} GB)" for device in devices)
    facts = {"devices": devices, "driver": driver}
    if furthest > 1e-4:
        return Finding("failed", f"{told}: a convolution differs from the processor's", "update the driver", facts)
    tf32 = "; TF32 is kept off while a detector runs" if any(device["has_tf32"] for device in devices) else ""
    return Finding("ok", f"{told}, driver {driver or 'unknown'}{tf32}", facts=facts)


def _driver() -> str:
    """Return the driver's version and the cards that it sees, empty without NVIDIA's tool or a card."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        command = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(answer.stdout.split("\n")).strip("; ")


def _conv_difference(device: torch.device) -> float:
    """Return how far a convolution with TF32 off lies from the processor's, relative to its largest value."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 16, 32, 32), (16, 16, 3, 3)))
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        ours = torch.nn.functional.conv2d(x.to(device), weight.to(device)).cpu()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    here = torch.nn.functional.conv2d(x, weight)
    return float((ours - here).abs().max() / here.abs().max())


def spikingjelly(bench: Bench) -> Finding:
    """Whether its surrogate gradients work, which training stands on."""
    try:
        import torch
        from spikingjelly.activation_based import surrogate
    except ImportError as error:
        return Finding("failed", f"cannot be imported: {error}", "pip install --no-deps spikingjelly loguru")
    version = metadata.version("spikingjelly")
    above = torch.tensor([-0.5, 0.5], requires_grad=True)
    spikes = surrogate.ATan()(above)
    spikes.sum().backward()
    facts = {"version": version}
    if spikes.tolist() != [0.0, 1.0] or above.grad is None or not bool((above.grad > 0).all()):
        told = f"{version}: a threshold gave {spikes.tolist()} with gradients {above.grad}"
        return Finding("failed", told, "install spikingjelly 2.0.0, or 0.0.0.0.14 on Python 3.10", facts)
    return Finding("ok", f"{version}: a threshold fires and passes a surrogate gradient", facts=facts)


def plugins(bench: Bench) -> Finding:
    """Whether every plugin loads, and every component of them."""
    from snn_perception.discovery import load_registry
    from snn_perception.errors import PluginError
    from snn_perception.registry import KINDS

    registry = load_registry(bench.plugins, blocked=bench.blocked)
    bench.registry = registry
    broken = [f"plugin '{plugin.id}' ({plugin.source}): {plugin.error}" for plugin in registry.plugins if plugin.error]
    broken = [line for line in broken if not line.endswith(": blocked")]
    entries = [entry for kind in KINDS for entry in registry.entries(kind)]
    for entry in entries:
        try:
            registry.resolve_options(entry.kind, f"{entry.plugin}:{entry.component.name}", {})
        except PluginError as error:
            if "cannot be loaded" in str(error):  # an option that must be given is no fault
                broken.append(str(error))
    facts = {
        "plugins": [{"id": p.id, "source": p.source, "error": p.error or None} for p in registry.plugins],
        "components": len(entries),
        "broken": broken,
    }
    if broken:
        more = f" and {len(broken) - 2} more" if len(broken) > 2 else ""
        remedy = "mend or uninstall it, or leave it out with --no-plugin ID"
        return Finding("failed", "; ".join(broken[:2]) + more, remedy, facts)
    if not registry.names("preset"):
        raise Skip("no plugin offers a model; run 'make setup', or pip install -e . --no-deps")
    return Finding("ok", f"{len(registry.plugins)} plugins with {len(entries)} components", facts=facts)

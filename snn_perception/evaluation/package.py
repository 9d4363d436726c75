"""A detector as one value that travels to worker processes, and its name by contents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from safetensors.torch import load, save

from snn_perception.detector import Detector
from snn_perception.discovery import CORE, ENTRY_POINT_GROUP, load_registry
from snn_perception.registry import Registry
from snn_perception.spec import ModelSpec


@dataclass(frozen=True)
class PluginSources:
    """Where a registry's plugins came from, so that another process can load the same."""

    local: tuple[str, ...]
    blocked: tuple[str, ...]

    @staticmethod
    def of(registry: Registry) -> PluginSources:
        """Return the sources of a registry's plugins."""
        installed = {(point.name, point.value) for point in entry_points(group=ENTRY_POINT_GROUP)}
        local = [
            info.source for info in registry.plugins if info.id != CORE and (info.id, info.source) not in installed
        ]
        blocked = [info.id for info in registry.plugins if info.error == "blocked"]
        return PluginSources(tuple(local), tuple(blocked))

    def code(self) -> str:
        """Return 16 hex digits over the Python files of local plugins: who edits one gets other figures."""
        digest = hashlib.sha256()
        for source in map(Path, self.local):
            for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
                digest.update(path.read_bytes() if path.is_file() else str(path).encode())
        return digest.hexdigest()[:16]

    def load(self) -> Registry:
        """Return a registry with these plugins; made once for each process."""
        return _registry(self)


@dataclass(frozen=True)
class PackedModel:
    """A detector: its description, its weights as safetensors bytes, and the plugins it is made of.

    Attributes:
        digest: 16 hex digits over description and weights; equal for models that give equal numbers.
    """

    spec_json: str = field(compare=False)
    weights: bytes = field(compare=False, repr=False)
    plugins: PluginSources
    digest: str

    @staticmethod
    def of(detector: Detector, registry: Registry) -> PackedModel:
        """Return a detector as it is now."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
        packed = save(weights)
        text = detector.spec.to_json()
        digest = hashlib.sha256(text.encode() + b"\n" + packed).hexdigest()[:16]
        return PackedModel(text, packed, PluginSources.of(registry), digest)

    def open(self, device: str) -> tuple[Detector, Registry]:
        """Return the detector on a device, in evaluation mode, and its registry; the process keeps the latest one."""
        registry = self.plugins.load()
        return _detector(self, device), registry


@lru_cache(maxsize=2)
def _registry(sources: PluginSources) -> Registry:
    return load_registry(sources.local, blocked=sources.blocked, environment=False)


@lru_cache(maxsize=1)
def _detector(packed: PackedModel, device: str) -> Detector:
    weights = load(packed.weights)
    detector = Detector(ModelSpec.from_json(packed.spec_json), packed.plugins.load())
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        detector.to(dtypes.pop())
    detector.load_state_dict(weights)
    return detector.to(device).eval()

"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone

from snn_perception.engine.cache import installed_version
from snn_perception.evaluation.latency import machine_name

PACKAGES = ("snn_perception", "numpy", "numba", "torch", "onnxruntime", "openvino", "spikingjelly")


def machine() -> dict[str, str]:
    """Return the processor, its load at this moment, and the versions of the software that counts."""
    return {
        "processor": machine_name(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := installed_version(name))),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }

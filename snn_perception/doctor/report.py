"""The findings as one signed-off report: what was checked, with which software, on which machine; with a digest."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from snn_perception import __version__
from snn_perception.doctor.finding import STATUSES, Finding

REPORT_FORMAT = 1


def make_report(findings: Sequence[Finding], *, full: bool) -> dict[str, Any]:
    """Return plain values for JSON: the machine, every finding with its facts, the verdict, and a digest over all."""
    content = {
        "format": REPORT_FORMAT,
        "snn_perception": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "full": full,
        "checks": [{**asdict(found), "facts": dict(found.facts)} for found in findings],
        "counts": {status: sum(found.status == status for found in findings) for status in STATUSES},
        "passed": passed(findings),
        "seconds": round(sum(found.seconds for found in findings), 1),
    }
    return {**content, "sha256": report_digest(content)}


def passed(findings: Sequence[Finding]) -> bool:
    """Return whether no check failed."""
    return not any(found.status == "failed" for found in findings)


def report_digest(report: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a report's values but for the digest itself, for whoever gets one to compare with."""
    values = {name: value for name, value in report.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode()).hexdigest()

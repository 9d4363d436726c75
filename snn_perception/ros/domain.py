"""Keeps the processes of a check or a demonstration to themselves."""

from __future__ import annotations

import os


def local_domain() -> None:
    """Keep this process and those it starts on this machine, in a domain of their own unless the user chose one."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))

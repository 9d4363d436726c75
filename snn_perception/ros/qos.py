"""Quality of service that users may override with ROS's own parameters, ``qos_overrides.<topic>.<kind>.<policy>``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum

from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions

from snn_perception.errors import SnnPerceptionError

POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
MOST_DEPTH = 100_000
_PREFIX = "qos_overrides."
_REFUSALS = (InvalidQosOverridesError, ParameterException, RuntimeError, ValueError, TypeError, AssertionError)


def overridable() -> QoSOverridingOptions:
    """Return options with which a subscription or publisher takes its profile as a default that users may override."""
    return QoSOverridingOptions(POLICIES, callback=_check)


@contextmanager
def overrides_of(topic: str, kind: str) -> Iterator[None]:
    """Make the subscription or publisher (`kind`) of a topic within; an override that it cannot have is one error.

    Raises:
        SnnPerceptionError: with the name of the parameters, and what is wrong.
    """
    try:
        yield
    except _REFUSALS as error:
        raise SnnPerceptionError(
            f"qos_overrides.{topic}.{kind}: {' '.join(str(error).split())}; these parameters are read when the node "
            "starts: start it again with other values (history: keep_last, keep_all; depth; reliability: "
            "best_effort, reliable; durability: volatile, transient_local)"
        ) from error


def without_effect(node: Node) -> list[str]:
    """Return the names of the overrides that no subscription and no publisher of a node has asked for so far."""
    given: Iterable[str] = node._parameter_overrides  # rclpy tells of them in no other way
    return sorted(name for name in given if name.startswith(_PREFIX) and not node.has_parameter(name))


def topics_of(node: Node) -> list[str]:
    """Return the topics, with the kind, of which a node's parameters can override something."""
    return sorted({name.rpartition(".")[0] for name in node.get_parameters_by_prefix(_PREFIX[:-1])})


def _check(profile: QoSProfile) -> SetParametersResult:
    """Return whether the middleware is to see a profile at all."""
    for policy in POLICIES:
        value = getattr(profile, policy.name.lower())
        if isinstance(value, Enum) and value.name == "UNKNOWN":
            return SetParametersResult(successful=False, reason=f"{policy.name.lower()} must be known")
    if not 0 <= profile.depth <= MOST_DEPTH:
        return SetParametersResult(successful=False, reason=f"depth must be 0..{MOST_DEPTH}, got {profile.depth}")
    return SetParametersResult(successful=True)

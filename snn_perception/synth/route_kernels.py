"""Loops over the tables of road and ego motion. Sines come from the C library, so that machines agree."""

from __future__ import annotations

import math

import numpy as np

from snn_perception.events.jit import kernel

_TAU = 2 * math.pi
_PITCH_HZ = (1.6, 7.0, 21.0)
_PITCH_RAD = (0.0022, 0.0006, 0.00012)  # at 10 m/s, of a poor road


@kernel
def trace(curvature, step, table, heading):  # type: ignore[no-untyped-def]
    """Integrate curvature [N] (1/m, left positive) into table [N, 4] (x, y, cos, sin) and heading [N]."""
    x, y, angle = 0.0, 0.0, 0.0
    for i in range(len(curvature)):
        table[i, 0], table[i, 1], table[i, 2], table[i, 3] = x, y, math.cos(angle), math.sin(angle)
        heading[i] = angle
        angle += curvature[i] * step
        middle = angle - 0.5 * curvature[i] * step
        x += math.cos(middle) * step
        y += math.sin(middle) * step


@kernel
def drive_speed(targets, halts, tick, acceleration, braking, speed):  # type: ignore[no-untyped-def]
    """Fill speed [N] with what a driver makes of the wanted speeds and the standstills halts [K, 2] (seconds).

    Braking is planned backwards from the start of a standstill, so that it ends exactly in speed 0.
    """
    n = len(targets)
    halt = 0
    now = targets[0]
    for k in range(len(halts)):
        if halts[k, 0] * braking < now and halts[k, 0] < 4.0:
            now = halts[k, 0] * braking
            break
    for i in range(n):
        t = i * tick
        while halt < len(halts) and t >= halts[halt, 1]:
            halt += 1
        limit = targets[i]
        if halt < len(halts):
            left = halts[halt, 0] - t
            limit = min(limit, max(0.0, left) * braking)
        now = min(now + acceleration * tick, limit) if limit > now else max(limit, now - (braking + 0.4) * tick)
        speed[i] = now if now > 1e-9 else 0.0


@kernel
def sway(speed, noise, phase, roughness, tick, shake):  # type: ignore[no-untyped-def]
    """Fill shake [N, 4]: lateral metres, yaw, pitch (radians), height (metres); all of it stands while the car does.

    Yaw and lateral place are damped random walks of their rates; pitch is the suspension at 1.6, 7 and 21 Hz, its
    strength growing with speed and wandering, and the dive under braking, which settles when the car has stopped.
    """
    yaw = yaw_rate = place = place_rate = dive = 0.0
    strength = 1.0
    angle = np.zeros(3)
    for i in range(len(speed)):
        moving = min(1.0, speed[i] / 4.0)
        yaw_rate += (-2.2 * yaw_rate - 1.2 * yaw) * tick * moving + 0.035 * math.sqrt(tick) * noise[i, 0] * moving
        yaw += yaw_rate * tick * moving
        place_rate += (-1.2 * place_rate - 0.5 * place) * tick * moving + 0.16 * math.sqrt(tick) * noise[i, 1] * moving
        place += place_rate * tick * moving
        strength += (1.0 - strength) * 0.8 * tick + 0.7 * math.sqrt(tick) * noise[i, 2]
        strength = min(2.5, max(0.2, strength))
        change = (speed[i] - speed[i - 1]) / tick if i > 0 else 0.0
        dive += (0.0024 * change - dive) * tick * 5.0
        amount = roughness * strength * min(1.5, speed[i] / 10.0)
        pitch, lift = dive if abs(dive) > 2e-5 or speed[i] > 0 else 0.0, 0.0
        for k in range(3):
            angle[k] += _TAU * _PITCH_HZ[k] * tick * (1.0 + 0.1 * math.sin(phase[k + 3] + 0.37 * i * tick))
            pitch += amount * _PITCH_RAD[k] * math.sin(angle[k] + phase[k])
        lift = 0.006 * amount * math.sin(0.9 * angle[0] + phase[1])
        shake[i, 0], shake[i, 1], shake[i, 2], shake[i, 3] = place, yaw, pitch, lift

"""The physical truth of a bench as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def world_text(truth: Mapping[str, Any]) -> str:
    """What `firmware-sim world` prints of `Bench.snapshot()`."""
    lines = [f"bench {truth['bench']}"]
    for name, ware in truth["labware"].items():
        place = f"at {ware['at']}" if ware["at"] else "in a gripper"
        lines.append(f"{name} ({ware['type']}) {place}, {ware['mass_g']:.3f} g")
        for well, content in ware["wells"].items():
            mixture = ", ".join(f"{ul:.1f} {liquid}" for liquid, ul in content["composition"].items())
            lines.append(f"  {well}: {content['volume_ul']:.1f} µl ({mixture})")
    if truth["spilled"]:
        mixture = ", ".join(f"{ul:.1f} µl {liquid}" for liquid, ul in truth["spilled"].items())
        lines.append(f"spilled: {mixture}")
    for name, state in truth["instruments"].items():
        lines.append(f"{name}: " + ", ".join(f"{key} {_value(value)}" for key, value in state.items()))
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) + ")"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

"""Which device a table was measured on, as far as it matters to latencies."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pantheon.compress.latency_table.measuring import RUNTIME


@dataclass(frozen=True, slots=True)
class Device:
    """A processor and what runs on it.

    Args:
        processor: its name, with family, model and stepping where the system tells.
        instructions: the vector instructions that it has.
        system: the operating system and the architecture.
        runtime: what executes models, with its version.
    """

    processor: str
    instructions: str
    system: str
    runtime: str

    def differences(self, other: Device) -> Mapping[str, tuple[str, str]]:
        """What is not the same: the values of both, by name."""
        ours, theirs = asdict(self), asdict(other)
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def this_device() -> Device:
    """The device that this process runs on.

    Example:
        >>> this_device().runtime.startswith("onnxruntime ")
        True
        >>> this_device().differences(this_device())
        {}
    """
    return Device(
        _processor(),
        _instructions(),
        f"{platform.system()} {platform.machine()}",
        f"{RUNTIME} {version(RUNTIME)}",
    )


CPUINFO = Path("/proc/cpuinfo")


def _processor() -> str:
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE))
    name = found.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{part} {found[key]}"
        for part, key in (("family", "cpu family"), ("model", "model"), ("stepping", "stepping"))
        if key in found
    ]
    return ", ".join([name, *numbers])[:200]


def _instructions() -> str:
    import torch

    found = torch.cpu.get_capabilities()
    return " ".join(sorted(name for name, has in found.items() if has is True))

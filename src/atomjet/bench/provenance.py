"""Where a result comes from: revision, machine, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "ase", "vesin", "triton", "schnetpack", "fairchem-core")


def provenance(device: torch.device) -> dict[str, Any]:
    """Everything about the place and time of a measurement that a reader may ask for."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain", "--untracked-files=no") or "").splitlines()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "device_type": device.type,
        "clocks": clocks(device),
        "load": list(os.getloadavg()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def clocks(device: torch.device) -> dict[str, float]:
    """MHz as seen now."""
    if device.type == "cuda" and shutil.which("nvidia-smi"):
        names = ("clocks.sm", "clocks.mem", "clocks.max.sm")
        command = [
            "nvidia-smi",
            f"--id={device.index or 0}",
            f"--query-gpu={','.join(names)}",
            "--format=csv,noheader,nounits",
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        values = output.splitlines()[0].split(",") if output else []
        return {name: float(value) for name, value in zip(names, values, strict=False) if value.strip().isdigit()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    seen = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return {"mean": sum(seen) / len(seen)} if seen else {}


def _git(*arguments: str) -> str | None:
    """What git says of the sources that run, or None where they are not a checkout."""
    here = Path(__file__).parent
    try:
        made = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return made.stdout.strip() if made.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

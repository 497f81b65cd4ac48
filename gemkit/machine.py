"""What a run is recorded with: the machine and the versions that produced it."""

import functools
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("gemkit", "torch", "torchvision", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def usable_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory, operating system, Python and GPUs of this machine."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        found["gpu"] = ", ".join(torch.cuda.get_device_name(number) for number in numbers)
    return found


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of gemkit and of the packages its results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

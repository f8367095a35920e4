"""Facts about the machine for the JSON file of `benchmark.py job=gpu`."""

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cnnzoo.runtime.cpu import usable_cores

PACKAGES = ("cnnzoo", "torch", "triton", "pytorch-lightning", "numpy")
DALI_PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
COPIED_BYTES, COPIES = 2**28, 10


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Versions, processor and, with CUDA, the GPU with its driver. What cannot be found out is None."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "processor": _processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "dali": next((found for name in DALI_PACKAGES if (found := _version(name))), None),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return facts


def host_to_device_rate(device: torch.device) -> float:
    """Bytes per second of a copy from pinned memory."""
    host = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(host, device=device)
    seconds = []
    for _ in range(COPIES):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(host, non_blocking=True)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return COPIED_BYTES / median(seconds)


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.splitlines()[0].strip() if output.strip() else None

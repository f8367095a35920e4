"""Facts about the machine for the JSON file of `benchmark.py job=gpu`."""

import platform
import subprocess
import time
from statistics import median
from typing import Any

import torch

from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.environment import dali_version, package_version, processor_name

PACKAGES = ("cnnzoo", "torch", "triton", "pytorch-lightning", "numpy")
COPIED_BYTES, COPIES = 2**28, 10


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Versions, processor and, with CUDA, the GPU with its driver. What cannot be found out is None."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "processor": processor_name(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "dali": dali_version(),
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


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.splitlines()[0].strip() if output.strip() else None

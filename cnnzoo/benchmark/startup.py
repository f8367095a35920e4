"""Compute one batch in a new process: what `job=graph` times to find out how long a network takes to start.

`SCRIPT` runs this file, which imports only what a program that serves the network would import.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READY = "ready"
SCRIPT = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
"""Unlike `python FILE`, it does not let the modules in this directory hide others."""


def measure_startup(settings: Mapping[str, Any], **environment: str) -> float:
    """Seconds from the start of a process until it has computed its first batch.

    settings: the arguments of `main`.
    environment: variables to set.

    Raises RuntimeError with the last line of its output if it fails.
    """
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", SCRIPT, __file__, json.dumps(settings)]
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            is_ready = any(line.strip() == READY for line in process.stdout)
            seconds = time.perf_counter() - start
        if not is_ready:
            errors.seek(0)
            raise RuntimeError((errors.read().strip().splitlines() or ["the new process ended without a result"])[-1])
    return seconds


def main(variant: str, file: str, shape: list[int], device: str, arguments: dict[str, Any]) -> None:
    """Load a network and compute its logits for images of zeros (N, C, H, W).

    variant: "eager", "compiled", "exported", "aoti" or "onnx".
    file: of the program, or of the weights.
    arguments: with which the network is built again, for "eager" and "compiled".
    """
    if variant == "onnx":
        import numpy as np
        import onnxruntime

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        session = onnxruntime.InferenceSession(file, providers=[provider])
        session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    else:
        import torch

        run: Any
        if variant == "exported":
            run = torch.export.load(file).module()
        elif variant == "aoti":
            run = torch._inductor.aoti_load_package(file)
        else:
            from cnnzoo.models import create_model

            if "target" in arguments:  # a network of the user
                from cnnzoo.models.custom import rebuild_custom

                net = rebuild_custom(arguments)
            else:
                net = create_model(**arguments)
            net.load_state_dict(torch.load(file, weights_only=True))
            net.to(device).eval()
            run = torch.compile(net, dynamic=False) if variant == "compiled" else net
        with torch.no_grad():
            run(torch.zeros(shape, device=device)).cpu()
    print(READY, flush=True)
    os._exit(0)  # the time to shut down is not measured


if __name__ == "__main__":
    main(**json.loads(sys.argv[-1]))

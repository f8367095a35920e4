"""Run a training script as it is, and time its optimizer steps.

    python step_timer.py RESULT WARMUP STEPS SCRIPT [ARGUMENTS...]

A hook of PyTorch sees the steps of every optimizer, so the script needs no changes, and all scripts are timed in the
same way. After WARMUP + STEPS steps, the process writes RESULT as JSON and exits at once:

    first_step          the end of the first step, in seconds since the epoch
    seconds             from the end of step WARMUP to the end of the last step, which includes waiting for batches
    parameters          the number of weights that the optimizer updates
    threads, versions   of torch, and of the packages that the script has imported
"""

import json
import os
import runpy
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "PIL": "pillow",
    "simplejpeg": "simplejpeg",
    "cnnzoo": "cnnzoo",
    "timm": "timm",
    "lightning": "lightning",
    "pytorch_lightning": "pytorch-lightning",
    "hydra": "hydra-core",
}
"""Packages whose versions matter, by the names of their modules."""


class StepTimer:
    """Called after each step of an optimizer."""

    def __init__(self, result: Path, warmup_steps: int, steps: int) -> None:
        self.result, self.warmup_steps, self.last_step = result, warmup_steps, warmup_steps + steps
        self.step = 0
        self.first_step = self.start = 0.0

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.step += 1
        if self.step not in (1, self.warmup_steps, self.last_step):
            return
        import torch  # the script has imported it

        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if self.step == 1:
            self.first_step = time.time()
        if self.step == self.warmup_steps:
            self.start = time.perf_counter()
        if self.step == self.last_step:
            facts = {
                "first_step": self.first_step,
                "seconds": time.perf_counter() - self.start,
                "parameters": sum(weight.numel() for group in optimizer.param_groups for weight in group["params"]),
                "threads": torch.get_num_threads(),
                "versions": used_versions(),
            }
            self.result.write_text(json.dumps(facts))
            os._exit(0)  # without validation and checkpoints; the benchmark ends the worker processes


class OptimizerFinder(MetaPathFinder):
    """Installs the timer when the script imports torch's optimizers, so that the imports keep their order."""

    module = "torch.optim.optimizer"

    def __init__(self, timer: StepTimer) -> None:
        self.timer = timer

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            module.register_optimizer_step_post_hook(self.timer)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def used_versions() -> dict[str, str]:
    """The versions of those of `PACKAGES` that this process has imported."""
    return {package: version(package) for module, package in PACKAGES.items() if module in sys.modules}


def main() -> None:
    result, warmup_steps, steps, script, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, OptimizerFinder(StepTimer(Path(result), int(warmup_steps), int(steps))))
    sys.argv[:] = [script, *arguments]
    sys.path[0] = str(Path(script).parent)  # as if Python had been started with the script
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

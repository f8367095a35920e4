"""Measure how fast a loop of plain PyTorch with `cnnzoo.load_data` trains, as a fraction of the speed of `train.py`.

    python benchmarks/load_data.py --root DIR                                 # resnet20, images of 32 x 32 pixels
    python benchmarks/load_data.py --root DIR --name resnet50 --image-size 224 --augment imagenet --device cuda

Both train the same network on the same batches of the image files in DIR, from a decoded cache, with the same loader,
optimizer and number of threads. `train.py` has its default callbacks and loggers; the loop has nothing but the step.

Each round runs both in processes of their own, every second round in reverse order, because the speed of machines
drifts. A run's speed is that of all measured steps together, which includes all waiting for batches. The table shows
the medians over the rounds, and the median of the rounds' quotients.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

WARMUP_STEPS = 30
SETTINGS = ("train.py", "load_data")


class Clock:
    """Prints the images per second of `steps` steps after the first `WARMUP_STEPS`; call `batch_start` in each."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.step, self.start = args, 0, 0.0

    def batch_start(self) -> None:
        if self.step in (WARMUP_STEPS, WARMUP_STEPS + self.args.steps):
            if self.args.device == "cuda":
                import torch

                torch.cuda.synchronize()
            seconds, self.start = time.perf_counter() - self.start, time.perf_counter()
            if self.step > WARMUP_STEPS:
                print("SPEED", self.args.steps * self.args.batch_size / seconds, flush=True)
        self.step += 1


def run_loop(args: argparse.Namespace) -> None:
    """The loop of a user who has neither Lightning nor Hydra."""
    import torch

    import cnnzoo
    from cnnzoo.data import Cache

    torch.set_num_threads(args.threads)
    clock = Clock(args)
    data = cnnzoo.load_data(
        "folder",
        root=args.root,
        image_size=args.image_size,
        batch_size=args.batch_size,
        augment=args.augment,
        cache=Cache("decoded", persist=args.cache),
        device=args.device,
    )
    net = cnnzoo.create_model(args.name, num_classes=len(data.classes)).to(torch.device(args.device))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for step, (images, labels) in enumerate(data.train):
        clock.batch_start()
        if step == num_steps(args):
            break
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            loss = torch.nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def run_job(args: argparse.Namespace) -> None:
    """`train.py` with the same settings."""
    import pytorch_lightning as pl
    import torch

    torch.set_num_threads(args.threads)

    class ClockCallback(pl.Callback):
        def __init__(self) -> None:
            self.clock = Clock(args)

        def on_train_batch_start(self, *_: Any) -> None:
            self.clock.batch_start()

    sys.modules[__name__].ClockCallback = ClockCallback  # type: ignore[attr-defined]
    from cnnzoo.jobs import train

    with tempfile.TemporaryDirectory() as directory:
        sys.argv[1:] = [
            *("data=folder", f"data.root={args.root}", f"data.image_size={args.image_size}"),
            *(f"data.batch_size={args.batch_size}", "data.cache.mode=decoded", f"data.cache.persist={args.cache}"),
            *(f"augment={args.augment}", f"model={args.family}", f"model.name={args.name}", "optimizer.lr=0.01"),
            *(f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "trainer.max_epochs=1", "test=false"),
            *(f"trainer.limit_train_batches={num_steps(args) + 1}", "trainer.limit_val_batches=0"),
            *(f"run_dir={directory}/run", f"+callbacks.clock._target_={__name__}.ClockCallback"),
        ]
        train.run()


def num_steps(args: argparse.Namespace) -> int:
    return WARMUP_STEPS + args.steps


def measure(setting: str, cache: str) -> float:
    """Images per second of one setting, in a new process."""
    command = [sys.executable, *sys.argv, "--run", setting, "--cache", cache]
    process = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
    match = re.search(r"^SPEED (.*)$", process.stdout, re.MULTILINE)
    if match is None:
        sys.exit(process.stdout + process.stderr)
    return float(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="a directory of images as for data=folder")
    parser.add_argument("--family", default="resnet", help="model=")
    parser.add_argument("--name", default="resnet20", help="model.name=")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--augment", default="cifar")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch on the CPU")
    parser.add_argument("--steps", type=int, default=300, help="steps that are measured; fewer than in an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--run", choices=SETTINGS, help=argparse.SUPPRESS)  # for the processes of the measurement
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_loop(args) if args.run == "load_data" else run_job(args)
        return
    speeds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as cache:  # filled by the first run and mapped by the others
        for number in range(args.rounds):
            for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                speeds[setting].append(measure(setting, cache))
            latest = {setting: round(of_setting[-1]) for setting, of_setting in speeds.items()}
            print(f"round {number + 1}: {latest}", file=sys.stderr, flush=True)
    print(f"{args.name}, {args.device}, batches of {args.batch_size}, {args.rounds} rounds of {args.steps} steps:\n")
    print("| setting | images/s | lowest | highest | relative to train.py |")
    print("|---|---|---|---|---|")
    for setting, values in speeds.items():
        quotient = median(a / b for a, b in zip(values, speeds["train.py"], strict=True))
        print(f"| {setting} | {median(values):,.0f} | {min(values):,.0f} | {max(values):,.0f} | {quotient:.3f} |")


if __name__ == "__main__":
    main()

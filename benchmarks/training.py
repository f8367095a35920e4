"""Speed of training on JPEGs: `train.py`, a hand-written loop, timm's training script and lightning-hydra-template.

    python benchmarks/training.py DIR                          # resnet18, 224 px, batches of 8 (128 on a GPU)
    python benchmarks/training.py DIR --json training.json     # also with the versions and the machine
    python benchmarks/training.py DIR --peers train.py loop    # only these

DIR contains train/ and test/, with one folder of images per class in each. timm and the template are measured if
`benchmarks/peers/setup.sh NAME` has made their environments.

All train the same network from random weights, with random-resized crops and flips, SGD with Nesterov momentum, the
same number of threads and of worker processes, channels last, and bf16 on a GPU. The network is cnnzoo's, except that
timm's script builds timm's network of the same name. Everything else is each peer's default: `train.py` has its cache,
callbacks and loggers, the template has its callbacks.

Each run is a separate process of the unchanged script, whose optimizer steps are timed (peers/step_timer.py). The clock
of images per second starts after a warm-up, in which the batches are used that workers have built ahead. Every second
round runs the peers in reverse order. The table shows medians over the rounds; the ratio is the median of the rounds'.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cnnzoo import info
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.environment import describe_environment
from cnnzoo.runtime.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks/peers"
TEMPLATE = PEERS / "lightning_hydra_template"
SUFFIXES = {".jpg", ".jpeg", ".png"}
CPU_BATCH, GPU_BATCH = 8, 128
CPU_STEPS, GPU_STEPS = 40, 200
WARMUP_STEPS = 3  # in addition to the batches that the workers have built ahead
BATCHES_AHEAD = 3  # of each worker: two in the queue, and the one that it builds
TRAIN_FRACTION = 0.9  # of the images in train/; train.py validates on the others
REFERENCE = "loop"
LEARNING_RATE, WEIGHT_DECAY = 0.01, 1e-4


@dataclass(frozen=True)
class Peer:
    """Something that trains.

    python: of its environment.
    script: the file that Python runs.
    arguments: the script's, from the settings of the benchmark and an empty directory for its files.
    modules: the directory of its own modules.
    setup: its name for `setup.sh`; None if it needs no environment of its own.
    """

    title: str
    python: Path
    script: Path
    arguments: Callable[[argparse.Namespace, Path], list[str]]
    modules: Path
    setup: str | None = None


def environment(name: str) -> Path:
    """The environment that `setup.sh NAME` makes, with the sources of the peer in `source`."""
    return PEERS / "venvs" / name


def train_py_arguments(args: argparse.Namespace, work: Path) -> list[str]:
    return [
        *("data=folder", f"data.root={args.folder}", f"data.image_size={args.size}", f"data.batch_size={args.batch}"),
        *(f"model={info(args.name).family}", f"model.name={args.name}", "augment=imagenet"),
        *(f"loader.workers={args.workers}", f"optimizer.lr={LEARNING_RATE}", f"optimizer.weight_decay={WEIGHT_DECAY}"),
        *(f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", f"run_dir={work}/run", *args.override),
    ]


def loop_arguments(args: argparse.Namespace, work: Path) -> list[str]:
    return [
        *(str(args.folder), "--name", args.name, "--size", str(args.size), "--batch", str(args.batch)),
        *("--workers", str(args.workers), "--device", args.device),
    ]


def timm_arguments(args: argparse.Namespace, work: Path) -> list[str]:
    on_gpu = ("--amp", "--amp-dtype", "bfloat16", "--pin-mem") if args.device == "cuda" else ()
    return [
        *("--data-dir", str(args.folder), "--train-split", "train", "--val-split", "test"),
        *("--model", args.name, "--num-classes", str(args.classes), "--img-size", str(args.size)),
        *("--batch-size", str(args.batch), "--workers", str(args.workers), "--device", args.device, *on_gpu),
        *("--opt", "sgd", "--lr", str(LEARNING_RATE), "--weight-decay", str(WEIGHT_DECAY), "--channels-last"),
        *("--train-interpolation", "bilinear", "--color-jitter", "0", "--smoothing", "0"),
        *("--epochs", "1", "--warmup-epochs", "0", "--output", str(work)),
    ]


def template_arguments(args: argparse.Namespace, work: Path) -> list[str]:
    folder = str(args.folder).replace("'", r"\'")
    on_gpu = ("+trainer.precision=bf16-mixed", "data.pin_memory=true") if args.device == "cuda" else ()
    return [
        *(f"--config-dir={TEMPLATE}/configs", "experiment=image_folder", f"trainer={'gpu' if on_gpu else 'cpu'}"),
        *(f"data.data_dir='{folder}'", f"data.image_size={args.size}", f"data.batch_size={args.batch}"),
        *(f"data.num_workers={args.workers}", f"model.net.name={args.name}", f"model.num_classes={args.classes}"),
        *(f"model.optimizer.lr={LEARNING_RATE}", f"model.optimizer.weight_decay={WEIGHT_DECAY}", *on_gpu),
        f"hydra.run.dir='{work}'",
    ]


def list_peers() -> dict[str, Peer]:
    """All peers, installed or not."""
    python, timm, template = Path(sys.executable), environment("timm"), environment("lightning-hydra-template")
    return {
        REFERENCE: Peer("hand-written loop", python, PEERS / "hand_written_loop.py", loop_arguments, ROOT),
        "train.py": Peer("train.py", python, ROOT / "train.py", train_py_arguments, ROOT),
        "timm": Peer(
            "timm's train.py",
            timm / "bin/python",
            timm / "source/train.py",
            timm_arguments,
            timm / "source",
            timm.name,
        ),
        "template": Peer(
            "lightning-hydra-template",
            template / "bin/python",
            template / "source/src/train.py",
            template_arguments,
            TEMPLATE,
            template.name,
        ),
    }


def run_peer(peer: Peer, args: argparse.Namespace) -> dict[str, Any]:
    """Run a peer in a new process. Returns what `step_timer.py` has written, and the seconds to the first step."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory) / "work"
        work.mkdir()
        result, log = Path(directory) / "result.json", Path(directory) / "log"
        settings = (result, args.warmup, args.steps, peer.script)
        command = [str(part) for part in (peer.python, PEERS / "step_timer.py", *settings)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
        start = time.time()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *peer.arguments(args, work)],
                cwd=work,
                env={**os.environ, **threads, "PYTHONPATH": str(peer.modules)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # also its worker processes
                process.wait()
        if not result.exists():
            sys.exit(
                f"{log.read_text(errors='replace')[-4000:]}\n{peer.title} ended before {args.steps} steps; see above"
            )
        facts: dict[str, Any] = json.loads(result.read_text())
    facts["first_step_seconds"] = facts.pop("first_step") - start
    return facts


def choose_peers(names: Sequence[str]) -> dict[str, Peer]:
    """Those of the peers that are installed; prints how to set up the others."""
    chosen = {}
    for name, peer in list_peers().items():
        if name not in names:
            continue
        if peer.setup is None or (peer.python.exists() and peer.script.exists()):
            chosen[name] = peer
        else:
            print(f"{peer.title} is left out: type benchmarks/peers/setup.sh {peer.setup}", file=sys.stderr)
    return chosen


def check_same_work(results: dict[str, list[dict[str, Any]]]) -> None:
    """Exit if the peers trained networks of different sizes, or with different numbers of threads."""
    for key in ("parameters", "threads"):
        values = {name: runs[0][key] for name, runs in results.items()}
        if len(set(values.values())) > 1:
            sys.exit(f"the peers had different {key}: {values}")


def summarize(results: dict[str, list[dict[str, Any]]], images: int) -> list[dict[str, Any]]:
    """One row per peer: medians, the values of the rounds and versions."""
    peers = list_peers()
    rates = {name: [images / run["seconds"] for run in runs] for name, runs in results.items()}
    return [
        {
            "name": peers[name].title,
            "images_per_second": median(rates[name]),
            "images_per_second_of_rounds": rates[name],
            "relative_to_loop": median(
                rate / reference for rate, reference in zip(rates[name], rates[REFERENCE], strict=True)
            ),
            "first_step_seconds": median(run["first_step_seconds"] for run in runs),
            "first_step_seconds_of_rounds": [run["first_step_seconds"] for run in runs],
            "parameters": runs[0]["parameters"],
            "versions": {**runs[0]["versions"], **source_version(peers[name])},
        }
        for name, runs in results.items()
    ]


def source_version(peer: Peer) -> dict[str, str]:
    """The tag of a peer's sources."""
    if peer.setup is None:
        return {}
    command = ["git", "-C", str(peer.script.parent), "describe", "--tags", "--always"]
    return {"source": subprocess.run(command, capture_output=True, text=True).stdout.strip()}


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print("| | images/s | from - to | x loop | from the command to the end of the first step, s | from - to |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        rates, seconds = row["images_per_second_of_rounds"], row["first_step_seconds_of_rounds"]
        print(
            f"| {row['name']} | {row['images_per_second']:.1f} | {min(rates):.1f} - {max(rates):.1f} "
            f"| {row['relative_to_loop']:.3f} | {row['first_step_seconds']:.1f} "
            f"| {min(seconds):.1f} - {max(seconds):.1f} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, device = list(list_peers()), "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", nargs="+", choices=names, default=names, help="the loop is always measured")
    parser.add_argument("--name", default="resnet18", help="network (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels (default %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--batch", type=int, help=f"images per step (default {CPU_BATCH}, on a GPU {GPU_BATCH})")
    parser.add_argument(
        "--steps", type=int, help=f"steps that are measured (default {CPU_STEPS}, on a GPU {GPU_STEPS})"
    )
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of torch (default: one per core)")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: one per core)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides for train.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to a new file")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.folder = args.folder.resolve()
    args.batch = args.batch or (GPU_BATCH if on_gpu else CPU_BATCH)
    args.steps = args.steps or (GPU_STEPS if on_gpu else CPU_STEPS)
    args.warmup = WARMUP_STEPS + BATCHES_AHEAD * args.workers
    args.classes = sum(path.is_dir() for path in args.folder.glob("train/*"))
    images = sum(path.suffix.lower() in SUFFIXES for path in args.folder.glob("train/*/*"))
    if (args.warmup + args.steps) * args.batch > TRAIN_FRACTION * images:
        parser.error(
            f"{args.folder}/train: {args.warmup} + {args.steps} steps of {args.batch} images need more than 90 % of "
            f"its {images} images; type fewer --steps, or a smaller --batch"
        )
    if args.json is not None and args.json.exists():
        parser.error(f"--json {args.json}: the file exists; type another name")
    return args


def main() -> None:
    args = parse_arguments()
    peers = choose_peers([REFERENCE, *args.peers])
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for number in range(args.rounds):
        for name in peers if number % 2 == 0 else reversed(peers):
            results[name].append(run_peer(peers[name], args))
            rate = args.steps * args.batch / results[name][-1]["seconds"]
            print(f"round {number + 1}, {peers[name].title}: {rate:.1f} images/s", file=sys.stderr, flush=True)
    check_same_work(results)
    rows = summarize(results, args.steps * args.batch)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"{args.name}, {args.size} px, batches of {args.batch}, {args.workers} workers, {device}; medians of")
    print(f"{args.rounds} rounds of {args.steps} steps:\n")
    print_table(rows)
    if args.json is not None:
        settings = {key: value for key, value in vars(args).items() if key not in ("folder", "json", "peers")}
        command = shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]])
        machine = {**describe_environment(), "threads": args.threads}
        write_json(args.json, {"command": command, "machine": machine, "settings": settings, "results": rows})


if __name__ == "__main__":
    main()

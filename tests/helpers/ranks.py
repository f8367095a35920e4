"""Several ranks in forks of the test process, which need not import torch again."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

WORLD_SIZE = 2


def run_ranks(function: Callable[..., Any], directory: Path, *arguments: object) -> list[Any]:
    """What `function(rank, *arguments)` returns on each of two ranks; `directory` is empty, for their rendezvous."""
    context = multiprocessing.get_context("fork")
    receivers, processes = [], []
    for rank in range(WORLD_SIZE):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_rank, args=(sender, function, rank, directory / "rendezvous", arguments))
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    results = [receiver.recv() if receiver.poll(120) else None for receiver in receivers]
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    return results


def _run_rank(sender: Any, function: Callable[..., Any], rank: int, file: Path, arguments: tuple[object, ...]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD_SIZE)
    sender.send(function(rank, *arguments))
    distributed.barrier()
    distributed.destroy_process_group()

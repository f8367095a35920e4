"""Which of several processes this one is."""

import os
import platform
from dataclasses import dataclass
from typing import Any

from torch import distributed

from cnnzoo.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together. The names are those of Lightning's trainer.

    num_devices: processes on this machine, which share its cores; None if that is unknown.
    """

    global_rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node_rank: int = 0
    num_devices: int | None = None


def current_ranks() -> Ranks:
    """The place of this process in torch's process group; without a group it is rank 0 of 1.

    All processes of a group must call this. Raises UserError if torchrun has started several processes, but they have
    no process group yet.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != "1":
            raise UserError(
                f"WORLD_SIZE={processes}: one of several processes, but they have no process group; call "
                "torch.distributed.init_process_group() or Accelerator() before load_data, or pass rank and world_size"
            )
        return Ranks()
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    machines: list[Any] = [None] * world_size
    distributed.all_gather_object(machines, _machine())
    return Ranks(
        global_rank=rank,
        world_size=world_size,
        local_rank=machines[:rank].count(machines[rank]),
        node_rank=list(dict.fromkeys(machines)).index(machines[rank]),
        num_devices=machines.count(machines[rank]),
    )


def _machine() -> tuple[str, str]:
    """The name of this machine, and its process namespace on Linux: containers cannot map each other's memory."""
    namespace = "/proc/self/ns/pid"
    return platform.node(), os.readlink(namespace) if os.path.exists(namespace) else ""

"""Worker processes: batches lie in shared memory, and whoever dies is missed at once."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cnnzoo.data.loaders import workers
from cnnzoo.data.loaders.base import BatchRequests
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR, SPARE_BUFFERS
from cnnzoo.errors import UserError
from tests.helpers.loaders import NO_WORKERS, equal_batches, live_workers, load_epoch


@pytest.fixture
def loader(loader_of, files):
    return loader_of(files, batch_size=1, workers=1, kind="processes")


def test_a_batch_lies_where_the_worker_wrote_it(loader):
    images, _ = next(iter(loader))
    memory = torch.frombuffer(loader._pool._memory.view, dtype=torch.uint8)
    assert memory.data_ptr() <= images.data_ptr() < memory.data_ptr() + len(memory)


def test_a_slot_is_used_again_once_its_batch_is_gone(loader):
    places = {images.data_ptr() for images, _ in loader}
    assert len(loader) == 20
    assert len(places) <= PREFETCH_FACTOR + SPARE_BUFFERS
    assert len(loader._pool._free) == PREFETCH_FACTOR + SPARE_BUFFERS


def test_who_keeps_batches_gets_copies_and_slots_come_back(loader_of, files, loader):
    kept = list(loader)
    slots = loader._pool.slots.count
    assert equal_batches(kept, load_epoch(loader_of(files, batch_size=1, **NO_WORKERS)))
    assert 0 < len(loader._pool._free) < slots
    del kept
    assert len(loader._pool._free) == slots


def test_keys_are_taken_as_workers_need_them(loader):
    """What stands behind them, such as the benchmark's passes, happens when it is due."""
    taken = []

    def keys():
        for key in BatchRequests(loader.sampler):
            taken.append(key)
            yield key

    next(iter(loader))
    made = loader._pool.build(keys())
    next(made)
    assert len(taken) <= 1 + PREFETCH_FACTOR + 1 < len(loader)
    assert len(list(made)) == len(loader) - 1


def test_breaking_off_gives_all_slots_back(loader):
    for _ in range(5):
        next(iter(loader))
    load_epoch(loader)
    assert len(loader._pool._free) == loader._pool.slots.count


def test_what_a_worker_keeps_open_is_not_the_parents_end(loader_of, files):
    """Else a worker would never learn that the parent is gone while another one lives."""
    loader = loader_of(files, workers=2, kind="processes")
    next(iter(loader))
    first, second = loader._pool._processes
    loader._pool._connections[0].close()
    first.join(10)
    assert first.exitcode == 0
    assert second.is_alive()


def test_a_killed_worker_ends_the_iteration(loader_of, files):
    loader = loader_of(files, workers=2, kind="processes")
    made = iter(loader)
    next(made)
    victim = loader._pool._processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    with pytest.raises(
        UserError, match=rf"process {victim.pid}\) was killed by signal 9 \(SIGKILL\); .*loader.kind=threads"
    ):
        for _ in made:
            pass
    assert not live_workers()
    loader.close()
    assert equal_batches(load_epoch(loader), load_epoch(loader_of(files, **NO_WORKERS)))  # a new crew


def test_what_goes_wrong_in_a_worker_is_raised_with_its_traceback(loader_of, files, monkeypatch):
    monkeypatch.setattr(workers.BatchBuilder, "build", lambda *_: 1 // 0)
    loader = loader_of(files, workers=2, kind="processes")
    with pytest.raises(RuntimeError, match=r"(?s)in a worker of the loader:.*ZeroDivisionError"):
        next(iter(loader))
    monkeypatch.undo()
    loader.close()
    load_epoch(loader)


def test_an_iteration_ends_where_its_loader_is_closed(loader):
    made = iter(loader)
    next(made)
    loader.close()
    with pytest.raises(RuntimeError, match="its loader has been closed since"):
        list(made)


def test_workers_rest_while_a_training_on_the_cpu_has_the_cores(loader_of, files):
    loader = loader_of(files, batch_size=1, workers=2, kind="processes", device=torch.device("cpu"))
    asked = []
    for _ in loader:
        assert not any(loader._pool._in_flight)  # who made a batch is asked for no other
        asked.append(loader._pool._tickets)
    assert asked == [2 + 2 * (n // 2) for n in range(20)]


def test_workers_that_rest_are_asked_again_whatever_is_kept(loader_of, files):
    loader = loader_of(files, batch_size=1, workers=2, kind="processes", device=torch.device("cpu"))
    kept = [*loader, *loader]
    assert equal_batches(kept[:20], kept[20:])
    broken_off = iter(loader)
    next(broken_off)
    broken_off.close()
    assert equal_batches(list(loader), kept[:20])


ORPHANS = """
import signal, sys, time
import numpy as np
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.data.loaders.torch_loader import TorchLoader

split = Split(np.zeros(64, np.int64), pixels=np.zeros((64, 8, 8, 3), np.uint8))
loader = TorchLoader(
    split, EpochSampler(64, 4, seed=0, train=True), augment=Augment(), train=True, image_size=8, channels=3, seed=0,
    workers=2, kind="processes",
)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has jobs in the background ignore it
next(iter(loader))
print(*(process.pid for process in loader._pool._processes), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill", "term", "int"])
def test_workers_end_with_their_parent_however_it_ends(sign):
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    found = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(found) == 2
    parent.send_signal(sign)
    parent.wait(20)
    parent.stdout.close()
    until = time.monotonic() + 20
    while any(_runs(pid) for pid in found):
        assert time.monotonic() < until


def _runs(pid):
    """Whether a process is there and not a zombie that nobody has asked after yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signals_are_for_the_process_that_trains(loader):
    """It may have steps to end before the workers do: `kill` and Ctrl-C often reach all of a job's processes."""
    made = iter(loader)
    next(made)
    (worker,) = live_workers()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, sign)
    rest = list(made)
    assert len(rest) == len(loader) - 1
    loader.close()
    worker.join(10)
    assert worker.exitcode == 0


def test_an_interpreter_that_ends_by_itself_waits_for_no_worker():
    script = ORPHANS.replace("time.sleep(600)", "")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert not any(_runs(int(pid)) for pid in ended.stdout.split())

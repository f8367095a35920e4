"""Worker processes: batches in shared memory, and the end of workers and of their parent."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cnnzoo.data.loaders import workers
from cnnzoo.data.loaders.base import BatchRequests
from cnnzoo.data.loaders.batch_builder import BatchBuilder
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR, SPARE_BUFFERS, ProcessPool
from cnnzoo.errors import UserError
from tests.helpers.loaders import NO_WORKERS, equal_batches, live_workers, load_epoch


@pytest.fixture
def loader(make_loader, files):
    return make_loader(files, batch_size=1, workers=1, kind="processes")


def test_process_pool_batch_is_view_of_shared_memory(loader):
    images, _ = next(iter(loader))
    memory = torch.frombuffer(loader._pool._memory.view, dtype=torch.uint8)
    assert memory.data_ptr() <= images.data_ptr() < memory.data_ptr() + len(memory)


def test_process_pool_reuses_buffers_of_released_batches(loader):
    addresses = {images.data_ptr() for images, _ in loader}
    assert len(loader) == 20
    assert len(addresses) <= PREFETCH_FACTOR + SPARE_BUFFERS
    assert len(loader._pool._free_buffers) == PREFETCH_FACTOR + SPARE_BUFFERS


def test_process_pool_copies_batches_if_all_are_kept(make_loader, files, loader):
    batches = list(loader)
    num_buffers = loader._pool.layout.num_buffers
    assert equal_batches(batches, load_epoch(make_loader(files, batch_size=1, **NO_WORKERS)))
    assert 0 < len(loader._pool._free_buffers) < num_buffers
    del batches
    assert len(loader._pool._free_buffers) == num_buffers


def test_process_pool_takes_requests_lazily(loader):
    """Code behind the requests, such as the benchmark's actions before each pass, must not run too early."""
    taken = []

    def requests():
        for request in BatchRequests(loader.sampler):
            taken.append(request)
            yield request

    next(iter(loader))
    batches = loader._pool.build_batches(requests())
    next(batches)
    assert len(taken) <= 1 + PREFETCH_FACTOR + 1 < len(loader)
    assert len(list(batches)) == len(loader) - 1


def test_process_pool_unfinished_iterations_free_buffers(loader):
    for _ in range(5):
        next(iter(loader))
    load_epoch(loader)
    assert len(loader._pool._free_buffers) == loader._pool.layout.num_buffers


def test_worker_exits_when_its_connection_closes(make_loader, files):
    """If another worker had inherited the connection, this worker would not notice that the parent is gone."""
    loader = make_loader(files, workers=2, kind="processes")
    next(iter(loader))
    first, second = loader._pool._processes
    loader._pool._connections[0].close()
    first.join(10)
    assert first.exitcode == 0
    assert second.is_alive()


def test_worker_that_cannot_start_is_an_error(make_loader, files, monkeypatch):
    start, started = multiprocessing.Process.start, []

    def start_one(process):
        if started:
            raise OSError(errno.EMFILE, "Too many open files")
        started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.context.Process, "start", start_one)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_one)
    loader = make_loader(files, workers=2, kind="processes")
    with pytest.raises(UserError, match=r"^loader\.workers=2: worker 2 cannot be started: Too many open files; type a"):
        next(iter(loader))
    started[0].join(10)
    assert started[0].exitcode == 0


def test_worker_asked_to_stop_builds_no_more_batches(files, make_loader):
    """When training ends, the worker may still have requests of an epoch that will not come."""
    pool = ProcessPool(make_loader(files)._builder, 1, 4)
    connection, worker_connection = multiprocessing.Pipe()
    for message in ((1, 0, 0, 4), (2, 1, 0, 4), None):
        connection.send(message)
    arguments = (worker_connection, None, pool._memory.path, pool.layout, [connection])
    worker = multiprocessing.Process(target=workers._worker_main, args=arguments)
    worker.start()
    worker.join(10)
    worker_connection.close()
    pool.close()
    assert worker.exitcode == 0
    with pytest.raises(EOFError):  # there is no reply
        connection.recv()


def test_worker_does_not_collect_inherited_garbage(make_loader, files, monkeypatch, tmp_path):
    """A forked worker that frees the parent's CUDA objects crashes."""

    class Garbage:
        def __del__(self):
            if os.getpid() != parent:
                (tmp_path / "collected").touch()

    def collect_and_build(builder, request, out=None):
        gc.collect()
        return build(builder, request, out)

    build, parent, garbage = BatchBuilder.build, os.getpid(), Garbage()
    garbage.cycle = garbage
    monkeypatch.setattr(BatchBuilder, "build", collect_and_build)
    gc.disable()
    try:
        del garbage
        next(iter(make_loader(files, workers=1, kind="processes")))
    finally:
        gc.enable()
    assert not (tmp_path / "collected").exists()


def test_killed_worker_raises_and_loader_restarts(make_loader, files):
    loader = make_loader(files, workers=2, kind="processes")
    iterator = iter(loader)
    next(iterator)
    victim = loader._pool._processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    with pytest.raises(
        UserError, match=rf"process {victim.pid}\) was killed by signal 9 \(SIGKILL\); .*loader.kind=threads"
    ):
        for _ in iterator:
            pass
    assert not live_workers()
    loader.close()
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(files, **NO_WORKERS)))  # with new workers


def test_worker_error_is_raised_with_its_traceback(make_loader, files, monkeypatch):
    monkeypatch.setattr(workers.BatchBuilder, "build", lambda *_: 1 // 0)
    loader = make_loader(files, workers=2, kind="processes")
    with pytest.raises(RuntimeError, match=r"(?s)in a loader worker:.*ZeroDivisionError"):
        next(iter(loader))
    monkeypatch.undo()
    loader.close()
    load_epoch(loader)


def test_closed_loader_ends_its_iteration(loader):
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(RuntimeError, match="its loader has been closed"):
        list(iterator)


def test_alternate_workers_wait_while_batches_are_used(make_loader, files):
    loader = make_loader(files, batch_size=1, workers=2, kind="processes", device=torch.device("cpu"))
    num_requests = []
    for _ in loader:
        assert not any(loader._pool._in_flight)  # no worker is busy while a batch is used
        num_requests.append(loader._pool._last_request_id)
    assert num_requests == [2 + 2 * (n // 2) for n in range(20)]


def test_alternate_continues_if_all_batches_are_kept(make_loader, files):
    loader = make_loader(files, batch_size=1, workers=2, kind="processes", device=torch.device("cpu"))
    loader.set_epoch(0)
    batches = [*loader, *loader]
    assert equal_batches(batches[:20], batches[20:])
    unfinished = iter(loader)
    next(unfinished)
    unfinished.close()
    assert equal_batches(list(loader), batches[:20])


PARENT_SCRIPT = """
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
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore SIGINT
next(iter(loader))
print(*(process.pid for process in loader._pool._processes), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "signum",
    [
        pytest.param(signal.SIGKILL, id="kill"),
        pytest.param(signal.SIGTERM, id="term", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, id="int", marks=pytest.mark.long),
    ],
)
def test_workers_exit_when_a_signal_ends_the_parent(signum):
    parent = subprocess.Popen([sys.executable, "-c", PARENT_SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signum)
    parent.wait(20)
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(_is_running(pid) for pid in pids):
        assert time.monotonic() < deadline


def _is_running(pid):
    """Whether a process exists and is not a zombie, that is, dead but not yet waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_ignore_signals_for_the_parent(loader):
    """`kill` and Ctrl-C often reach all processes of a job, and the parent may still have steps to finish."""
    iterator = iter(loader)
    next(iterator)
    (worker,) = live_workers()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, signum)
    remaining = list(iterator)
    assert len(remaining) == len(loader) - 1
    loader.close()
    worker.join(10)
    assert worker.exitcode == 0


def test_interpreter_exit_ends_workers():
    script = PARENT_SCRIPT.replace("time.sleep(600)", "")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert not any(_is_running(int(pid)) for pid in result.stdout.split())

"""The CPU cores that this process may use."""

import os

import pytest

from cnnzoo.runtime.cpu import usable_cores


def test_usable_cores_follows_cpu_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, affinity)

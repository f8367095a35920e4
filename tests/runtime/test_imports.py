"""Garbage collection during the imports of a job."""

import gc
import sys

import pytest

from cnnzoo.runtime.imports import imports_without_gc


@pytest.fixture
def no_torch(monkeypatch):
    """A process that has not imported torch yet and has no frozen objects."""
    monkeypatch.delitem(sys.modules, "torch")
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("no_torch")
def test_imports_without_gc_freezes_what_is_imported():
    with imports_without_gc():
        assert not gc.isenabled()
        imported = ["an object that the collector tracks"]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(tracked is imported for tracked in gc.get_objects())


@pytest.mark.usefixtures("no_torch")
def test_imports_without_gc_after_failure_enables_gc():
    with pytest.raises(ImportError), imports_without_gc():
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_imports_without_gc_in_second_job_does_nothing():
    gc.unfreeze()
    with imports_without_gc():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0

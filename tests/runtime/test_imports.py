"""Garbage collection during the imports of a job, names that are imported by their first use, missing packages."""

import gc
import sys

import pytest

from cnnzoo.errors import MissingPackageError, UserError
from cnnzoo.runtime.imports import imports_without_gc, lazy_attributes, require_packages


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


def test_missing_package_is_named_for_the_outermost_user(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingPackageError) as raised, require_packages("outer"), require_packages("inner"):
        import cv2  # noqa: F401
    expected = "outer needs opencv-python-headless, which is not installed; type pip install cnnzoo"
    assert (str(raised.value), raised.value.name) == (expected, "cv2")
    assert isinstance(raised.value, UserError)
    assert isinstance(raised.value, ImportError)


def test_missing_module_of_cnnzoo_is_no_missing_package():
    get = lazy_attributes("cnnzoo.runtime", {"thing": "absent"})
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'cnnzoo\.runtime\.absent'") as raised:
        get("thing")
    assert not isinstance(raised.value, UserError)
    with pytest.raises(AttributeError, match=r"module 'cnnzoo\.runtime' has no attribute 'other'"):
        get("other")

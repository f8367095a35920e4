"""Importing code of the user, and tracebacks of its errors."""

import sys

import pytest

from cnnzoo.checks import check_int
from cnnzoo.errors import UserCodeError, UserError
from cnnzoo.runtime.user_code import add_current_directory, locate, user_traceback


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The current directory, with modules of a user."""
    modules = {
        "zz_good.py": "class TinyNet:\n    VALUE = 3\n\ndef fail():\n    raise ValueError('no luck')\n",
        "zz_fails.py": "1 / 0\n",
        "zz_needs.py": "import nosuchpackage\n",
        "zz_syntax.py": "def f(:\n",
        "random.py": "raise RuntimeError('shadows a module of Python')\n",
        "zz_package/__init__.py": "",
        "zz_package/part.py": "NAME = 1\n",
    }
    for name, text in modules.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    add_current_directory()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("zz_")]:
        del sys.modules[name]


def test_modules_of_the_current_directory_are_found(directory):
    assert locate("key", "zz_good.TinyNet.VALUE") == 3
    assert locate("key", "zz_package.part.NAME") == 1


def test_current_directory_is_the_last_place(directory):
    path = list(sys.path)
    add_current_directory()
    assert sys.path == path
    assert path[-1] == str(directory)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tinynet", "key=tinynet: expected MODULE.NAME"),
        ("tiny-net.Net", "expected MODULE.NAME"),
        ("zz_god.TinyNet", "there is no module zz_god; did you mean zz_good, which is zz_good.py in this directory?"),
        ("nosuchmodule.TinyNet", "there is no module nosuchmodule; expected nosuchmodule.py in this directory"),
        ("zz_good.TinyNett", "has no TinyNett; did you mean TinyNet?"),
        ("zz_good.xyz", "has no xyz; it has TinyNet"),
        ("zz_package.parts.NAME", "has no parts; did you mean part?"),
        ("torch.optim.Adamm", "has no Adamm; did you mean Adam"),
    ],
)
def test_misspelt_target_is_one_line(directory, target, message):
    with pytest.raises(UserError) as error:
        locate("key", target)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, UserCodeError)


@pytest.mark.parametrize(
    ("module", "reason", "line"),
    [
        ("zz_fails", "ZeroDivisionError: division by zero", "1 / 0"),
        ("zz_needs", "ModuleNotFoundError: No module named 'nosuchpackage'", "import nosuchpackage"),
        ("zz_syntax", "SyntaxError: invalid syntax", "def f(:"),
    ],
)
def test_module_that_fails_has_a_traceback(directory, module, reason, line):
    with pytest.raises(UserCodeError, match=rf"key={module}.x: importing {module} failed: {reason}") as error:
        locate("key", f"{module}.x")
    trace = user_traceback(error.value.__cause__)
    assert f'{module}.py", line 1' in trace
    assert line in trace
    assert "importlib" not in trace


def test_traceback_begins_in_the_file_of_the_user(directory):
    with pytest.raises(ValueError, match=r"no luck") as error:
        locate("key", "zz_good.fail")()
    error.value.__traceback__ = error.value.__traceback__.tb_next
    assert user_traceback(error.value).splitlines()[1].strip().startswith(f'File "{directory}/zz_good.py", line 5')


def test_error_outside_of_the_files_of_the_user_has_no_traceback():
    with pytest.raises(UserError) as error:
        check_int("key", 0, minimum=1)
    error.value.__traceback__ = error.value.__traceback__.tb_next  # without the frame of this file
    assert user_traceback(error.value) == ""
    assert user_traceback(None) == ""

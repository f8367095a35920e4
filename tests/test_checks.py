"""The checks of values that a user sets."""

import numpy as np
import pytest

from cnnzoo.checks import check_bool, check_choice, check_int, check_number, create_directory
from cnnzoo.errors import UserError


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_int("a.b", 0, minimum=1), "a.b=0: expected a whole number >= 1"),
        (lambda: check_int("a.b", True, minimum=0), "a.b=True: expected a whole number >= 0"),
        (lambda: check_int("a.b", 1.0, minimum=0), "a.b=1.0: expected a whole number >= 0"),
        (lambda: check_int("a.b", 31, minimum=0, maximum=30), "a.b=31: expected a whole number from 0 to 30"),
        (lambda: check_int("a.b", -1, minimum=0, note="(0: off)"), "a.b=-1: expected a whole number >= 0 (0: off)"),
        (lambda: check_number("x", "1", minimum=0), "x=1: expected a number >= 0"),
        (lambda: check_number("x", float("nan"), minimum=0), "x=nan: expected a number >= 0"),
        (lambda: check_number("x", False, maximum=1), "x=False: expected a number <= 1"),
        (lambda: check_number("x", 0, above=0, maximum=1), "x=0: expected a number > 0 and <= 1"),
        (lambda: check_number("x", 1, above=0, below=1), "x=1: expected a number > 0 and < 1"),
        (lambda: check_number("x", float("inf"), minimum=0), "x=inf: expected a number >= 0"),
        (lambda: check_bool("z", "no"), "z=no: expected true or false"),
        (lambda: check_bool("z", 1), "z=1: expected true or false"),
        (lambda: check_choice("y", "c", ("a", "b")), "y=c: expected a or b"),
        (lambda: check_choice("y", "c", ("a", "b", "d"), note="or null"), "y=c: expected a, b or d or null"),
    ],
)
def test_check_bad_value_raises_with_key_and_bounds(check, message):
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value) == message


def test_check_good_value_is_returned():
    assert check_int("a", 3, minimum=3, maximum=3) == 3
    assert type(check_int("a", np.int64(3), minimum=3)) is int
    assert check_number("a", 1, minimum=1) == 1
    assert check_number("a", 0.5, above=0, below=1) == 0.5
    assert check_choice("a", None, (None, 1, 3)) is None


def test_create_directory_names_the_key(tmp_path):
    create_directory("a.b", tmp_path / "new/one")
    create_directory("a.b", tmp_path / "new/one")
    assert (tmp_path / "new/one").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^a\.b=.*/file/x: the directory cannot be created: Not a directory$"):
        create_directory("a.b", tmp_path / "file/x")

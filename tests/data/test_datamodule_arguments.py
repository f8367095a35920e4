"""The data module's arguments: errors for wrong ones, and the types that it stores."""

import numpy as np
import pytest

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Digits
from cnnzoo.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0: expected a whole number >= 1"),
        ({"batch_size": 1.5}, "data.batch_size=1.5"),
        ({"image_size": 0}, "data.image_size=0"),
        ({"image_size": "big"}, "data.image_size=big"),
        ({"image_size": [24]}, r"data.image_size=\[24\]: expected two numbers, \[height,width\]"),
        ({"start_size": 0}, "data.start_size=0: expected a whole number >= 1"),
        ({"start_size": 1.5}, "data.start_size=1.5"),
        ({"channels": 0}, "data.channels=0: expected a whole number >= 1"),
        ({"bits": 12}, "data.bits=12: expected 8 or 16"),
        ({"split_seed": -1}, "data.split_seed=-1"),
        ({"root": "/x"}, "data.root=/x: .*reads no files"),
        ({"seed": "a"}, "^seed=a: expected a whole number >= 0"),
        ({"seed": -1}, "^seed=-1: expected a whole number >= 0"),
        ({"augment": None}, r"^augment=None: expected an Augment, such as Augment\("),
        ({"augment": "light"}, r"^augment=light: expected an Augment"),
        ({"cache": None}, r"^cache=None: expected a Cache, such as Cache\("),
        ({"cache": "decoded"}, r"^cache=decoded: expected a Cache"),
        ({"loader": None}, r"^loader=None: expected a class such as TorchLoader"),
        ({"loader": "torch"}, r"^loader=torch: expected a class such as TorchLoader"),
    ],
)
def test_invalid_option_is_an_error(options, message):
    with pytest.raises(UserError, match=message):
        DataModule(Digits, **options)


@pytest.mark.parametrize("source", ["digits", None, Digits()])
def test_source_that_is_no_class_is_an_error(source):
    with pytest.raises(UserError, match=r"^source=.*: expected a class such as ImageFolder"):
        DataModule(source)


def test_unknown_split_is_an_error():
    with pytest.raises(UserError, match="unknown split 'validation': expected one of: train, val, test"):
        DataModule(Digits).split("validation")


def test_numpy_integers_are_stored_as_int():
    data = DataModule(Digits, image_size=np.int64(16), channels=np.int64(1), batch_size=np.int64(8), seed=np.int64(3))
    data.setup()
    assert [type(data.preprocess[key]) for key in ("image_size", "channels")] == [int, int]
    assert (type(data.batch_size), type(data.seed)) == (int, int)

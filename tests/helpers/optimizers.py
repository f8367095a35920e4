"""The optimizers of the extra `optim`."""

from importlib.util import find_spec

import pytest

needs_optim = pytest.mark.skipif(find_spec("pytorch_optimizer") is None, reason='needs pip install "cnnzoo[optim]"')

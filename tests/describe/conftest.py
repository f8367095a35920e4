"""A fixture of several test files: the rows of the zoo's table, which take three seconds to build."""

import pytest

from cnnzoo.describe.show import zoo_rows


@pytest.fixture(scope="session")
def rows():
    """What `zoo_rows` returns."""
    return zoo_rows()

"""Composing the same configuration only once."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest

from cnnzoo import cli


@contextmanager
def composed_once() -> Iterator[None]:
    """Keep what `ConfigTree.compose` returns: most commands compose the same configuration, which takes 0.1 s."""
    compose, configurations = cli.ConfigTree.compose, {}

    def compose_once(tree, overrides, **options):
        key = (tree.job, tree.user_dirs, *overrides, *options.items())
        if key not in configurations:
            configurations[key] = compose(tree, overrides, **options)
        return deepcopy(configurations[key])  # the checks change what they get

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.ConfigTree, "compose", compose_once)
        yield

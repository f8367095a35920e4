"""How the jobs' log reaches the terminal."""

import logging
import sys
from typing import TextIO


class ConsoleHandler(logging.StreamHandler):
    """Writes to whatever `sys.stdout` is at the time: above a live progress bar, not through it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The present standard output."""
        return sys.stdout

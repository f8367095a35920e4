"""The job `benchmark.py`: what limits training on this machine, and the settings to use."""

from cnnzoo.benchmark.show import check, show_data

__all__ = ["check", "show_data"]

"""The job `benchmark.py`: find out what limits the speed of training on this machine, and which settings to use."""

from cnnzoo.benchmark.show import check_config, run_data_benchmark

__all__ = ["check_config", "run_data_benchmark"]

"""The job `benchmark.py`: find out what limits the speed of training on this machine, and which settings to use."""

from cnnzoo.benchmark.gpu_benchmark import run_gpu_benchmark
from cnnzoo.benchmark.gpu_training import Training
from cnnzoo.benchmark.show import check_config, run_data_benchmark

__all__ = ["Training", "check_config", "run_data_benchmark", "run_gpu_benchmark"]

"""The job `benchmark.py`: measure this machine, find out what limits training on it, and which settings to use."""

from cnnzoo.benchmark.check_config import check_config
from cnnzoo.benchmark.gpu_benchmark import run_gpu_benchmark
from cnnzoo.benchmark.gpu_training import STEP_OVERRIDES, Training
from cnnzoo.benchmark.graph_benchmark import run_graph_benchmark
from cnnzoo.benchmark.hardware_benchmark import run_hardware_benchmark
from cnnzoo.benchmark.inference_benchmark import run_inference_benchmark
from cnnzoo.benchmark.show import run_data_benchmark
from cnnzoo.benchmark.train_benchmark import CPU_BATCH_SIZE, run_train_benchmark, use_generated_images

__all__ = [
    "CPU_BATCH_SIZE",
    "STEP_OVERRIDES",
    "Training",
    "check_config",
    "run_data_benchmark",
    "run_gpu_benchmark",
    "run_graph_benchmark",
    "run_hardware_benchmark",
    "run_inference_benchmark",
    "run_train_benchmark",
    "use_generated_images",
]

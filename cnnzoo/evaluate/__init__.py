"""How good networks are: metrics, calibration and ensembles, and the files, the plots and the report that show them.

from cnnzoo.data import Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.evaluate.evaluation import evaluate

evaluate(net, DataModule(Digits), split="val").metrics["acc1"]
"""

"""Classify images with a trained network, and show what it looks at.

`python predict.py --help` lists examples and keys. The code is in `cnnzoo/jobs/predict.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("predict")

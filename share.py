"""Publish a trained network on the Hugging Face Hub, with a page that describes it.

`python share.py --help` lists examples and keys. The code is in `cnnzoo/jobs/share.py`.
"""

from cnnzoo import jobs

if __name__ == "__main__":
    jobs.run("share")

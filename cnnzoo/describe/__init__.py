"""The job `describe.py`: a network layer by layer, two blocks side by side, or the zoo as a table and as a chart.

`show` is the job. The callbacks of training need only `tables` and `trace`, so `show` is not imported here.
"""

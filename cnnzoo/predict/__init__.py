"""Classifies image files with a trained network, and draws what the network looks at.

`cnnzoo.predict_images` is the function for Python.
"""

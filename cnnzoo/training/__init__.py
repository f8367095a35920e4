"""Training: build the network, fit it, test the best checkpoint; resume a stopped run; load a trained network."""

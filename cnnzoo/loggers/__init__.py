"""Loggers: CSV and TensorBoard (`local`), Weights & Biases and MLflow (`remote`)."""

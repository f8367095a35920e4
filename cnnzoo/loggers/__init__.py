"""Where a run's metrics are written: TensorBoard and CSV (`local`), Weights & Biases and MLflow (`remote`)."""

"""Readers of what other tools have recorded: Optuna, Ray Tune, TensorBoard and CSV logs."""

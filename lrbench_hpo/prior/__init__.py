"""What past runs say of a task: points, scales and a model. It knows neither Optuna nor Ray."""

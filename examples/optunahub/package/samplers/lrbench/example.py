"""Load the sampler as OptunaHub does, and search the LR policy of a quadratic: nothing to train.

python example.py, in this folder
"""

import pathlib

import numpy as np
import optuna
import optunahub

BUDGET = 200
# The registry is the folder `package`, three levels up; load_module(package=...) loads from GitHub.
REGISTRY = pathlib.Path(__file__).resolve().parents[2]
lrbench = optunahub.load_local_module("samplers/lrbench", registry_root=str(REGISTRY))


def objective(trial: optuna.Trial) -> float:
    """Decades of a noisy quadratic's loss after 200 steps of gradient descent."""
    policy = lrbench.suggest_policy(trial)
    random = np.random.default_rng(0)
    curvature, weights = np.logspace(-2, 1, 20), np.ones(20)
    for iteration in range(BUDGET):
        gradient = curvature * weights + 0.1 * random.standard_normal(20)
        weights = weights - float(policy(iteration)) * gradient
        if np.abs(weights).max() > 1e6:
            return 12.0  # diverged
    return float(np.log10((curvature * weights**2).sum() / 2))


sampler = lrbench.LRBenchSampler("quadratic", "weights", max_iterations=BUDGET, seed=0)
study = optuna.create_study(direction="minimize", sampler=sampler)
study.optimize(objective, n_trials=15)
print("best:", study.best_value, study.best_trial.user_attrs["policy"])

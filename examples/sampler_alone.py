"""The sampler in a plain Optuna study, beside a parameter of one's own: a few seconds, no torch.

python examples/sampler_alone.py
"""

import numpy as np
import optuna
from sklearn.datasets import load_digits

import lrbench_hpo

ITERATIONS, BATCH = 400, 100
images, labels = load_digits(return_X_y=True)
images = images / 16
train, validation = slice(0, 1400), slice(1400, None)


def objective(trial: optuna.Trial) -> float:
    policy = lrbench_hpo.suggest_policy(trial)
    decay = trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)  # searched along, by TPE
    random = np.random.default_rng(0)
    weights, velocity = np.zeros((64, 10)), np.zeros((64, 10))
    for iteration in range(ITERATIONS):
        batch = random.integers(0, 1400, BATCH)
        logits = images[batch] @ weights
        wrong = np.exp(logits - logits.max(axis=1, keepdims=True))
        wrong /= wrong.sum(axis=1, keepdims=True)
        wrong[np.arange(BATCH), labels[batch]] -= 1
        velocity = 0.9 * velocity + images[batch].T @ wrong / BATCH + decay * weights
        weights -= policy(iteration) * velocity
    return float(((images[validation] @ weights).argmax(axis=1) == labels[validation]).mean())


sampler = lrbench_hpo.LRBenchSampler("digits", "softmax", max_iterations=ITERATIONS, seed=0)
study = optuna.create_study(direction="maximize", sampler=sampler)
study.optimize(objective, n_trials=12)
print("best accuracy:", round(study.best_value, 4), "with", study.best_params)
print(lrbench_hpo.explain(study, study.best_trial.number))

"""Your own PyTorch training code, with the policy from the study and a real torch scheduler.

python examples/own_training_loop.py
"""

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import lrbench_hpo

ITERATIONS, BATCH = 200, 100
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
labels = torch.tensor(digits.target)
train, validation = slice(0, 1400), slice(1400, None)


def objective(trial: optuna.Trial) -> float:
    policy = lrbench_hpo.suggest_policy(trial)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=policy(0), momentum=0.9)
    scheduler = policy.torch_scheduler(optimizer)
    best, reached, difference = 0.0, ITERATIONS, 0.0
    minima = policy.evaluation_points(ITERATIONS)
    for iteration in range(1, ITERATIONS + 1):
        batch = torch.randint(0, 1400, (BATCH,))
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if iteration in minima:  # policies are compared at their LR minima
            with torch.no_grad():
                logits = model(images[validation])
                top1 = (logits.argmax(1) == labels[validation]).double().mean().item()
                held_out = functional.cross_entropy(logits, labels[validation])
                seen = functional.cross_entropy(model(images[train]), labels[train])
            if top1 > best:
                best, reached, difference = top1, iteration, (held_out - seen).item()
    return lrbench_hpo.score(
        top1=best, iterations_to_best=reached, max_iterations=ITERATIONS, loss_difference=difference
    )


study = lrbench_hpo.create_study("digits", "mlp", max_iterations=ITERATIONS, seed=0)
study.optimize(objective, n_trials=8)
print("best score:", round(study.best_value, 4), "with", study.best_trial.user_attrs["policy"])

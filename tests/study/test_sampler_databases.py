"""Searches from a poor, odd or contradictory database: they work, and find the answer."""

import dataclasses
import math

import numpy as np
import optuna
import pytest

from lrbench_hpo import LRPolicy, Run, connect, recommend, suggest_policy
from lrbench_hpo.records.tasks import task_for
from lrbench_hpo.study.sampler import LRBenchSampler

T = 1_000
BEST = 0.02  # the LR that the made-up response is best at


def response(trial):
    """Best at a mean LR of 0.02, twice as bad at ten times as much; NaN far above it."""
    mean = float(np.mean(suggest_policy(trial)(np.arange(0, T, 10))))
    if mean > 30 * BEST:
        trial.set_user_attr("status", "diverged")
        return -1.0
    return 0.9 - 0.2 * abs(math.log10(mean / BEST))


def run(policy, top1, status="complete", source="others", **changes):
    """A stored run on the task itself."""
    task = dataclasses.replace(task_for("digits", "mlp"), **changes)
    metrics = {"iterations_to_best": T, "loss_difference": 0.0}
    metrics |= {} if top1 is None else {"top1": top1}
    return Run(task, policy, T, seed=0, metrics=metrics, status=status, source=source)


def fixed(top1_of, status="complete"):
    """FIX at twenty LRs around the best one."""
    lrs = BEST * 10 ** np.linspace(-2, 2, 20)
    return [run(LRPolicy("FIX", k0=float(f"{lr:.6g}")), top1_of(lr), status) for lr in lrs]


def right(lr):
    return 0.9 - 0.2 * abs(math.log10(lr / BEST))


def upside_down(lr):
    return 0.3 + 0.2 * abs(math.log10(lr / BEST))


COS = LRPolicy("COS", k0=0.04, k1=1e-4, l=T)
DATABASES = {
    "one row": [run(COS, 0.85)],
    "one diverged row": [run(COS, None, "diverged")],
    "only diverged rows": fixed(lambda lr: None, "diverged"),
    "one function only": fixed(right),
    "only an upside-down one": fixed(upside_down),
    "contradictory rows": [
        *fixed(right),
        *(dataclasses.replace(each, source="more") for each in fixed(upside_down)),
    ],
    "all alike": fixed(lambda lr: 0.5),
    "little metadata": [
        run(COS, 0.85, num_classes=None, num_train=None, num_parameters=None, optimizer=None)
    ],
}


@pytest.fixture(params=DATABASES, ids=lambda name: name.replace(" ", "-"))
def database(request):
    with connect("sqlite://") as opened:
        opened.add(*DATABASES[request.param])
        yield opened


def search(database, n_trials, **options):
    sampler = LRBenchSampler(
        "digits", "mlp", max_iterations=T, database=database, **{"seed": 0, **options}
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(response, n_trials=n_trials)
    return study


def test_whatever_the_database_holds_a_search_finds_the_answer(database):
    study = search(database, 30)
    assert len({str(trial.user_attrs["policy"]) for trial in study.trials}) == 30
    # Within a fifth of a decade of the best LR.
    assert study.best_value > 0.9 - 0.2 * 0.2


def test_something_is_recommended_from_it(database):
    assert recommend("digits", "mlp", max_iterations=T, database=database)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_another_scale_of_the_lr_is_found(factor):
    """The database knows the shape of the answer, and is wrong by 1,000 in its LRs."""
    rows = [
        run(LRPolicy("FIX", k0=float(f"{lr * factor:.6g}")), right(lr), reference_lr=BEST * factor)
        for lr in BEST * 10 ** np.linspace(-1, 1, 12)
    ]
    with connect("sqlite://") as database:
        database.add(*rows)
        told = search(database, 12, reference_lr=BEST)
        assert told.best_value > 0.9 - 0.2 * 0.2
        guessed = search(database, 30)
    policies = [LRPolicy.from_dict(trial.user_attrs["policy"]) for trial in guessed.trials]
    assert len(set(policies)) == 30

"""What past runs say: tasks, their reference LRs, the units their LRs may be in."""

import dataclasses
import math

import numpy as np
import pytest

from lrbench_hpo import LRPolicy, Run, connect
from lrbench_hpo.database.paper import SOURCE as PAPER
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.evidence import KnownTask, known_tasks, similar
from lrbench_hpo.prior.surrogate import Surface
from lrbench_hpo.prior.transfer import candidates, reference_lr, shifts, sources
from lrbench_hpo.records.tasks import recipe_for, task_for

SPACE = load_space("default")
BUDGET = 300


@pytest.fixture
def database():
    with connect("sqlite://") as db:
        yield db


def task(dataset="digits", model="mlp", **changes):
    return task_for(dataset, model, recipe_for(dataset, model, **changes))


def run(on, k0, top1, *, status="complete", function="FIX", **changes):
    policy = LRPolicy("FIX", k0=k0) if function == "FIX" else LRPolicy("EXP", k0=k0, gamma=0.99)
    metrics = {"top1": top1, "iterations_to_best": BUDGET, "loss_difference": 0.0}
    metrics = metrics if status == "complete" else {}
    return Run(on, policy, BUDGET, seed=0, status=status, metrics=metrics, **changes)


def known(on, similarity=0.8, lrs=(0.01,), *, best=None, **changes):
    """A task whose runs are best at one constant LR."""
    centre = math.log10(best or lrs[0])
    runs = [
        run(on, lr, 0.9 * math.exp(-(((math.log10(lr) - centre) / 3) ** 2)), **changes)
        for lr in lrs
    ]
    features = np.log10(np.repeat(np.array(lrs)[:, None], 16, axis=1))
    scores = np.array([entry.metrics["top1"] for entry in runs])
    return KnownTask(on, similarity, runs, Surface(features, scores))


MANY = tuple(10 ** np.linspace(-3, 0, 40))


def test_a_response_surface_needs_many_runs():
    assert known(task(), lrs=MANY[:30]).rich
    assert not known(task(), lrs=MANY[:29]).rich


def test_the_surface_holds_more_than_the_runs_and_nan_where_they_diverged(database):
    lrs = np.geomspace(1e-3, 1, 60)
    database.add(
        *(run(task(), float(lr), 0.5 + lr / 10, source="ann") for lr in lrs),
        run(task(), 50.0, None, status="diverged"),
        run(task(), 0.5, 0.9, status="pruned"),
        run(task(), 0.6, 0.9, split="test"),
    )
    [mine, *_] = known_tasks(database, task())
    assert mine.rich
    assert mine.similarity == 1
    assert len(mine.surface.scores) == 61
    assert len(mine.runs) <= 48
    assert np.isnan(mine.surface.scores).sum() == 1
    assert mine.surface.features.shape == (61, 16)
    lost = mine.surface.features[np.isnan(mine.surface.scores)][0]
    assert lost == pytest.approx(math.log10(50))
    assert mine.surface.features.max() == pytest.approx(math.log10(50))


def test_tasks_that_differ_in_the_reference_lr_alone_are_one(database):
    for eta in (0.01, 0.1, None):
        database.add(run(dataclasses.replace(task(), reference_lr=eta), eta or 1.0, 0.8))
    found = [entry for entry in known_tasks(database, task()) if not entry.published]
    assert [len(entry.runs) for entry in found] == [3]
    assert found[0].task.reference_lr is None


def test_similar_tasks_are_those_that_are_not_far_behind_the_most_similar():
    def of(*shares):
        return [known(task(), share) for share in shares]

    def kept(*shares):
        return [entry.similarity for entry in similar(of(*shares))]

    assert kept(1.0, 0.5, 0.41, 0.39) == [1.0, 0.5, 0.41]
    assert kept(0.6, 0.26, 0.24) == [0.6, 0.26]
    assert kept(0.24, 0.2) == []
    assert kept() == []


def test_what_is_not_similar_is_known_all_the_same(database):
    """Its shapes may be good where the scale was measured."""
    adam = task("cifar10", "resnet32", optimizer="adam")
    everything = known_tasks(database, adam)
    assert len(everything) > len(similar(everything)) >= 0
    alike = [entry.similarity for entry in everything]
    assert alike == sorted(alike, reverse=True)


def test_of_the_same_task_lrs_are_what_they_are():
    mine = known(task(), 1.0)
    assert shifts(mine, task(), Scale(BUDGET, 5.0)) == ((0.0, 1.0),)
    bigger = known(task(batch_size=50), 0.95)
    assert len(shifts(bigger, task(batch_size=100), Scale(BUDGET, 5.0))) == 10


def centres(found):
    """The shifts that others are equally far below and above."""
    steps = [round(shift, 4) for shift, _ in found]
    return [steps[n + 2] for n in range(0, len(steps), 5)]


@pytest.mark.parametrize("measured", [True, False])
def test_the_units_that_lrs_may_be_in(measured):
    here, scale = task(batch_size=100), Scale(BUDGET, 0.1)
    plain = known(task("mnist", "mlp", batch_size=100), lrs=(0.01, 0.001, 0.0001))
    four = known(task("mnist", "mlp", batch_size=400), lrs=(0.01, 0.001, 0.0001))
    adam = known(task("mnist", "mlp", optimizer="adam"), lrs=(0.01, 0.001, 0.0001))
    found = {
        name: centres(shifts(other, here, scale, measured))
        for name, other in [("plain", plain), ("four", four), ("adam", adam)]
    }
    assert found["adam"] == [1.0]  # relative to both reference LRs, or it means nothing
    if measured:
        assert found["plain"] == found["four"] == [0.0, 1.0]
    else:
        assert found["plain"] == [0.0]
        assert found["four"] == [0.0, pytest.approx(-math.log10(4), abs=1e-4)]


def test_units_that_are_nearly_the_same_are_one():
    here = task()
    other = known(task("mnist", "mlp"), lrs=(0.1, 0.01, 0.001))
    assert centres(shifts(other, here, Scale(BUDGET, 0.12), measured=True)) == [0.0]
    assert len(centres(shifts(other, here, Scale(BUDGET, 0.2), measured=True))) == 2


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("batch_size", [1, 100, 4_096])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_probabilities_of_units_are_shares_of_one(measured, batch_size, optimizer):
    other = known(task("mnist", "lenet", batch_size=batch_size, optimizer=optimizer), 0.7)
    found = shifts(other, task(), Scale(BUDGET, 0.3), measured)
    assert sum(share for _, share in found) == pytest.approx(1)
    assert all(share > 0 for _, share in found)
    assert len({shift for shift, _ in found}) == len(found)


def test_sources_say_where_they_come_from_and_published_ones_weigh_a_third():
    on = task("mnist", "lenet")
    own, published = known(on), known(on, source=PAPER)
    mine, theirs = sources([own, published], task(), Scale(BUDGET, 0.1), measured=False)
    assert mine.name == theirs.name == f"{on.dataset}/{on.model}"
    assert theirs.weight == pytest.approx(mine.weight / 3)
    assert mine.surface is own.surface
    assert mine.shifts == shifts(own, task(), Scale(BUDGET, 0.1), False)


def test_runs_of_a_rich_task_are_candidates_in_each_unit():
    other, scale = known(task("mnist", "mlp"), lrs=MANY, best=0.05), Scale(BUDGET, 0.1)
    found = list(candidates([other], task(), scale, SPACE))
    by_run = {}
    for entry in found:
        by_run.setdefault(entry.run.policy.k0, []).append(entry.policy.k0)
    steps = [shift for shift, _ in shifts(other, task(), scale)]
    middle = min(by_run, key=lambda lr: abs(lr - 0.05))
    expected = [middle * 10**step for step in steps]
    assert by_run[middle] == pytest.approx(expected, rel=1e-4)
    for entry in found:
        assert SPACE.clip("FIX", entry.point)[1] == []


def test_a_run_says_no_more_in_many_units_than_in_one():
    here, scale = task(), Scale(BUDGET, 0.1)
    rich, poor = (known(task("mnist", "mlp"), lrs=MANY[:count]) for count in (40, 5))
    [in_one] = [c.weight for c in candidates([poor], here, scale, SPACE) if c.run == poor.runs[0]]
    in_many = [c.weight for c in candidates([rich], here, scale, SPACE) if c.run == rich.runs[0]]
    assert len(in_many) > 1
    assert sum(in_many) == pytest.approx(in_one)


def test_of_a_rich_task_the_best_runs_are_enough():
    other = known(task("mnist", "mlp"), lrs=MANY, best=0.05)
    tried = {c.run.policy.k0 for c in candidates([other], task(), Scale(BUDGET, 0.1), SPACE)}
    nearest = sorted(MANY, key=lambda lr: abs(math.log10(lr / 0.05)))
    assert len(tried) < len(MANY)
    assert tried == set(nearest[: len(tried)])


def test_a_task_with_another_budget_weighs_less():
    other = known(task("mnist", "mlp"))
    near, far = (sources([other], task(), Scale(n * BUDGET, 0.1), False)[0] for n in (1, 16))
    assert far.weight < near.weight


def test_runs_of_a_poor_task_are_candidates_in_one_unit():
    other = known(task("mnist", "mlp"), lrs=(0.01, 0.02, 0.03))
    found = list(candidates([other], task(), Scale(BUDGET, 0.1), SPACE))
    assert [entry.policy.k0 for entry in found] == pytest.approx([0.1, 0.2, 0.3])


def test_the_surface_knows_the_best_constant_lr_of_a_rich_task():
    assert known(task(), lrs=MANY, best=0.1).reference_lr == pytest.approx(0.1, rel=0.15)


def test_published_runs_keep_the_reference_that_was_published():
    on = dataclasses.replace(task(), reference_lr=0.02)
    assert known(on, lrs=MANY, best=0.1, source=PAPER).reference_lr == 0.02


def test_the_reference_lr_is_the_middle_of_what_several_tasks_say():
    here = task()
    near = known(task("mnist", "mlp"), 0.8, lrs=(0.01, 1e-3, 1e-4))
    far = known(task("fashionmnist", "mlp"), 0.4, lrs=(0.1, 1.0, 10.0))
    lr, origin = reference_lr(here, [near, far], SPACE)
    weights = np.array([0.8, 0.4]) ** 2
    assert math.log10(lr) == pytest.approx(np.average([-2, -1], weights=weights), abs=1e-4)
    assert origin == "from the similar tasks mnist/mlp, fashionmnist/mlp"
    alone, one = reference_lr(here, [near], SPACE)
    assert (alone, one) == (0.01, "that of the similar task mnist/mlp")


def test_a_published_task_weighs_a_third_in_it():
    here = task()
    paper = dataclasses.replace(task("mnist", "lenet"), reference_lr=0.01)
    published = known(paper, 0.6, source=PAPER)
    own = known(task("mnist", "mlp"), 0.6, lrs=(0.1, 1.0, 10.0))
    lr, _ = reference_lr(here, [own, published], SPACE)
    assert math.log10(lr) == pytest.approx((-1 * 3 - 2) / 4, abs=1e-4)


def test_batch_size_and_momentum_correct_it_half_way():
    other = known(task("mnist", "mlp", batch_size=50), 0.8, lrs=(0.01, 1e-3, 1e-4))
    lr, _ = reference_lr(task(batch_size=200), [other], SPACE)
    assert lr == pytest.approx(0.02, rel=1e-4)


def test_tasks_in_another_unit_say_nothing_of_it():
    adam = known(task("mnist", "mlp", optimizer="adam"), 0.8, lrs=(1e-5, 1e-4, 1e-6))
    caffe = known(task("cifar10", "cnn3"), 0.8, lrs=(1e-5, 1e-4, 1e-6))
    lr, origin = reference_lr(task(), [adam, caffe], SPACE)
    assert (lr, origin) == (0.01, "the usual first try for sgd")


@pytest.mark.parametrize("status", ["diverged", "complete"])
def test_where_nothing_was_learnt_there_is_no_best_constant_lr(status):
    on = task()
    lrs = np.geomspace(1, 20, 40)
    runs = [run(on, float(lr), 0.1, status=status) for lr in lrs]
    features = np.log10(np.repeat(lrs[:, None], 16, axis=1))
    scores = np.full(40, np.nan if status == "diverged" else 0.1)
    assert KnownTask(on, 1.0, runs, Surface(features, scores)).reference_lr is None


def test_short_first_looks_do_not_tell_of_long_trainings():
    """Trainings of five iterations that learnt nothing, beside ones of a thousand that did."""
    with connect("sqlite://") as database:
        of = task("digits", "mlp")
        lrs = np.geomspace(1e-3, 1.0, 40).tolist()
        long = [Run(of, LRPolicy("FIX", k0=lr), 1_000, metrics={"top1": top1_at(lr)}) for lr in lrs]
        short = [Run(of, LRPolicy("FIX", k0=lr), 5, metrics={"top1": 0.12}) for lr in lrs[20:]]
        database.add(*long)
        [alone] = similar(known_tasks(database, of))[:1]
        database.add(*short)
        [mixed] = similar(known_tasks(database, of))[:1]
    assert mixed.reference_lr == pytest.approx(alone.reference_lr, rel=0.1)


def top1_at(lr):
    return 0.95 - 0.2 * abs(math.log10(lr / 0.1))

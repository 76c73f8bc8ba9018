"""A trial that is a population: each policy ends with the numbers that it has alone."""

from __future__ import annotations

import functools
import io
import math

import pytest
import torch
from torch import nn

from lrbench_hpo import LRPolicy, ScoreWeights
from lrbench_hpo.errors import TrainingError
from lrbench_hpo.ray_tune.population_trial import PopulationTrial, weights_in
from lrbench_hpo.records.member_reports import members_in
from lrbench_hpo.records.reports import METRICS, run_in
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.training import Population, Trainer, load_data

BUDGET = 60
POLICIES = (
    LRPolicy("FIX", k0=0.1),
    LRPolicy("SIN2", k0=0.001, k1=0.1, l=5),
    LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[30]),
)
HOPELESS = LRPolicy("FIX", k0=1e-7)
EXPLODES = LRPolicy("FIX", k0=1000.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear(num_classes, image_shape):
    """No layer whose values saturate or die, so that a large LR ends in infinity."""
    size = math.prod(image_shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Linear(8, 8), nn.Linear(8, 10))


@functools.cache
def trainer():
    recipe = recipe_for("digits", "mlp", max_iterations=BUDGET)
    return Trainer(load_data("digits"), linear, recipe, device="cpu")


@functools.cache
def alone(policy):
    return trainer().train(policy, BUDGET)


def made(policies=POLICIES, **options):
    options = {"executor": "stream", "early_stopping": False, **options}
    return PopulationTrial(trainer(), policies, BUDGET, weights=ScoreWeights(), **options)


def reports(trial):
    """All reports until the end."""
    found = []
    while not trial.finished:
        trial.step()
        found.append(trial.report())
    return found


def last_of(results):
    """The last report of every policy."""
    latest = {}
    for result in results:
        latest |= members_in(result)
    return latest


def same_run(run, policy):
    expected = alone(policy).run
    return (run.curve, dict(run.metrics)) == (expected.curve, dict(expected.metrics))


def test_policies_have_the_numbers_that_they_have_alone():
    trial = made()
    latest = last_of(reports(trial))
    assert set(latest) == {0, 1, 2}
    for place, policy in enumerate(POLICIES):
        run = run_in(latest[place])
        assert (run.policy, run.status, latest[place]["status"]) == (policy, *["complete"] * 2)
        assert same_run(run, policy)
        assert latest[place]["score"] == score_run(alone(policy).run)
        weights = weights_in(trial.state_dict(), place)
        assert all(torch.equal(weights[key], alone(policy).state[key]) for key in weights)


def test_every_report_has_the_same_keys_and_a_score_that_never_falls():
    results = reports(made())
    assert len({frozenset(result) for result in results}) == 1
    assert set(METRICS) < set(results[0])
    for name in ("score", "iteration", "rung", "trained_iterations", "seconds", "ended"):
        values = [result[name] for result in results]
        assert values == sorted(values), name
    assert [result["status"] for result in results[:-1]] == ["running"] * (len(results) - 1)
    end = results[-1]
    assert (end["status"], end["iteration"], end["rung"], end["ended"]) == ("complete", 60, 10, 3)
    assert end["score"] == max(score_run(alone(policy).run) for policy in POLICIES)
    # The first 30 iterations of two policies are the same.
    assert (end["trained_iterations"], end["saved_iterations"]) == (150, 30)
    # What moved is told as it moves, and everything again at the end.
    assert set(members_in(results[0])) == {0, 2}
    assert set(members_in(end)) == {0, 1, 2}


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_another_process_goes_on_exactly(stop):
    first = made()
    early = []
    for _ in range(stop):
        first.step()
        early.append(first.report())
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second = made(executor="auto")
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.executor == "stream"
    second.step()
    told_again = members_in(second.report())
    assert set(told_again) >= set(last_of(early))
    latest = last_of(reports(second))
    assert all(same_run(run_in(latest[place]), p) for place, p in enumerate(POLICIES))
    reports(first)
    for place in range(3):
        one, other = (weights_in(trial.state_dict(), place) for trial in (first, second))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_population_that_is_restored_tells_all_of_it_again():
    first = made()
    end = reports(first)[-1]
    second = made()
    second.load_state_dict(first.state_dict())
    assert second.finished
    assert second.report() == end


def test_one_that_explodes_harms_no_other():
    latest = last_of(reports(made((EXPLODES, *POLICIES))))
    assert [latest[place]["status"] for place in range(4)] == ["diverged", *["complete"] * 3]
    assert latest[0]["score"] == -1.0
    assert all(same_run(run_in(latest[place + 1]), p) for place, p in enumerate(POLICIES))


def test_a_population_of_nothing_but_divergence_is_diverged():
    trial = made((EXPLODES, EXPLODES))
    end = reports(trial)[-1]
    assert (end["status"], end["score"], end["iteration"]) == ("diverged", -1.0, BUDGET)
    with pytest.raises(TrainingError, match="no policy of this population has ended complete"):
        weights_in(trial.state_dict())


def test_losers_are_stopped_and_stay_so():
    policies = (*POLICIES, HOPELESS, LRPolicy("FIX", k0=2e-7))
    trial = made(policies, early_stopping=True)
    results = reports(trial)
    latest = last_of(results)
    stopped = [place for place in latest if latest[place]["status"] == "pruned"]
    assert {3, 4} <= set(stopped)
    assert len(stopped) < len(policies)
    for place in stopped:
        run = run_in(latest[place])
        assert run.status == "pruned"
        assert run.curve == alone(policies[place]).run.curve[: len(run.curve)]
        assert run.curve[-1].iteration < BUDGET
    assert results[-1]["status"] == "complete"
    assert results[-1]["trained_iterations"] < BUDGET * len(policies)
    with pytest.raises(TrainingError, match="policy 3 of this population has"):
        weights_in(trial.state_dict(), 3)


def test_the_best_weights_are_those_of_the_best_score():
    trial = made()
    reports(trial)
    best = max(range(3), key=lambda place: score_run(alone(POLICIES[place]).run))
    state = trial.state_dict()
    assert weights_in(state) is weights_in(state, best)


def test_a_new_best_is_worth_a_checkpoint():
    trial = made()
    while not trial.has_new_best:
        trial.step()
    assert trial.report()["ended"] >= 1
    trial.state_dict()
    assert not trial.has_new_best


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 0}, "no state of a population's trial of format 2"),
        ({"policies": []}, "the state is of a population of other policies"),
    ],
)
def test_the_state_of_something_else_is_refused(change, says):
    trial = made()
    with pytest.raises(TrainingError, match=says):
        trial.load_state_dict({**made().state_dict(), **change})


class OneAtATime(PopulationTrial):
    """On a machine with memory for one network."""

    def _made(self, executor):
        return Population(self._trainer, capacity=1, executor=executor)


def test_policies_wait_for_room():
    trial = OneAtATime(
        trainer(),
        POLICIES,
        BUDGET,
        weights=ScoreWeights(),
        executor="stream",
        early_stopping=False,
    )
    results = reports(trial)
    latest = last_of(results)
    assert all(same_run(run_in(latest[place]), p) for place, p in enumerate(POLICIES))
    reached = [result["iteration"] for result in results]
    assert reached == sorted(reached)
    assert reached[0] < BUDGET / len(POLICIES)
    assert reached[-1] == BUDGET

"""LRMinimaPruner in real studies: the same rule, whatever the storage and the direction."""

import math
import pickle

import optuna
import pytest

from lrbench_hpo import LRPolicy, Objective, create_study, suggest_policy
from lrbench_hpo.errors import StudyError
from lrbench_hpo.study.pruner import LRMinimaPruner
from lrbench_hpo.study.stopping import Observed, StoppingRule

BUDGET = 100
FIX = LRPolicy("FIX", k0=0.1)
TRIANGLE = LRPolicy("TRI", k0=0.01, k1=0.1, l=20)  # minima at 40 and 80
optuna.logging.set_verbosity(optuna.logging.ERROR)


def plain_study(direction="maximize", storage=None, **settings):
    pruner = LRMinimaPruner(max_iterations=BUDGET, **settings)
    return optuna.create_study(direction=direction, pruner=pruner, storage=storage)


def values(end):
    return {t: end - (end - 0.1) * math.exp(-t / 30) for t in range(10, BUDGET + 1, 10)}


def train(study, end, policy=FIX, sign=1.0, steps=None):
    """One trial; how far it came."""
    trial = study.ask()
    if policy is not None:
        trial.set_user_attr("policy", policy.to_dict())
    for step, value in values(end).items():
        if steps is None or step in steps:
            trial.report(sign * value, step)
            if step < BUDGET and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return step
    study.tell(trial, sign * values(end)[BUDGET])
    return BUDGET


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1.0), ("minimize", -1.0)])
def test_a_bad_trial_is_stopped_and_a_good_one_is_not(direction, sign):
    study = plain_study(direction)
    assert [train(study, 0.8 + i / 100, sign=sign) for i in range(6)] == [BUDGET] * 6
    assert train(study, 0.15, sign=sign) < BUDGET / 2
    assert train(study, 0.9, sign=sign) == BUDGET


def test_a_cyclic_policy_is_judged_at_its_minima_however_often_it_reports():
    study = plain_study()
    for i in range(6):
        train(study, 0.8 + i / 100)
    assert train(study, 0.12, TRIANGLE) == 40
    assert train(study, 0.12, TRIANGLE, steps={10, 30, 50, 90}) == BUDGET


def test_equal_steps_heed_every_report_if_asked():
    study = plain_study(rule=StoppingRule(minima_only=False))
    for i in range(6):
        train(study, 0.8 + i / 100)
    assert train(study, 0.12, TRIANGLE) < 40
    assert train(study, 0.12, TRIANGLE, steps={30, 50, 90}) == 30


def test_study_and_rule_agree():
    study, rule = plain_study(), StoppingRule(level=2.0)
    study.pruner = LRMinimaPruner(rule, max_iterations=BUDGET)
    seen = []
    for end in (0.7, 0.75, 0.6, 0.8, 0.2, 0.5, 0.85, 0.4, 0.12, 0.78):
        told, stopped = values(end), BUDGET
        for step in list(told)[:-1]:
            steps = tuple(t for t in told if t <= step)
            now = Observed(FIX, BUDGET, steps, tuple(told[t] for t in steps), finished=False)
            if rule.should_stop(now, seen):
                stopped = step
                break
        steps = tuple(t for t in told if t <= stopped)
        shown = tuple(told[t] for t in steps)
        assert train(study, end) == stopped
        seen.append(Observed(FIX, BUDGET, steps, shown, finished=stopped == BUDGET))
    assert len({len(trial.values) for trial in seen}) > 1


def test_trials_without_a_policy_are_neither_stopped_nor_compared_with():
    study = plain_study()
    for end in (0.95, 0.96, 0.97):
        train(study, end, policy=None)
    assert train(study, 0.11) == BUDGET
    for i in range(5):
        train(study, 0.8 + i / 100)
    assert train(study, 0.11, policy=None) == BUDGET
    trial = study.ask()
    trial.set_user_attr("policy", {"function": "nonsense"})
    trial.report(0.1, 10)
    assert not trial.should_prune()


def test_reports_that_are_no_numbers_stop_nobody():
    study = plain_study()
    for i in range(5):
        train(study, 0.8 + i / 100)
    trial = study.ask()
    trial.set_user_attr("policy", FIX.to_dict())
    assert not trial.should_prune()
    trial.report(math.nan, 10)
    assert not trial.should_prune()
    trial.report(0.1, 20)
    assert trial.should_prune()


def test_diverged_trials_do_not_set_the_scale():
    study = plain_study()
    for i in range(5):
        train(study, 0.8 + i / 100)
    diverged = study.ask()
    diverged.set_user_attr("policy", FIX.to_dict())
    diverged.set_user_attr("status", "diverged")
    study.tell(diverged, -1.0)
    assert train(study, 0.15) < BUDGET


def test_a_noisy_score_needs_a_larger_distance():
    def stopped_after(samples):
        study = plain_study(rule=StoppingRule(level=50.0, margin=3.0))
        for i in range(5):
            train(study, 0.8 + i / 1000)
        waiting = study.ask()
        waiting.set_user_attr("evaluation_samples", samples)
        return train(study, 0.79, steps={90, 100})

    assert stopped_after(20) == BUDGET
    assert stopped_after(10**6) < BUDGET


def test_a_study_of_somebody_else_is_refused_in_one_line():
    study = optuna.create_study(direction="maximize", pruner=LRMinimaPruner())
    trial = study.ask()
    trial.report(0.1, 10)
    with pytest.raises(StudyError, match="knows no LR task: make it with"):
        trial.should_prune()


def test_a_name_that_is_used_again_starts_anew():
    storage = optuna.storages.InMemoryStorage()
    pruner = LRMinimaPruner(max_iterations=BUDGET)
    for ends in ((0.8, 0.81, 0.82, 0.83, 0.84), (0.12, 0.13, 0.12, 0.13, 0.12)):
        study = optuna.create_study(
            study_name="again", storage=storage, direction="maximize", pruner=pruner
        )
        for end in ends:
            train(study, end)
        stopped = train(study, 0.14)
        optuna.delete_study(study_name="again", storage=storage)
        assert (stopped < BUDGET) == (ends[0] == 0.8)


def test_a_pickled_pruner_goes_on():
    study = plain_study()
    for i in range(5):
        train(study, 0.8 + i / 100)
    study.pruner = pickle.loads(pickle.dumps(study.pruner))  # noqa: S301 - its own
    assert train(study, 0.15) < BUDGET


@pytest.mark.parametrize("bad", [{"rule": 3}, {"max_iterations": 0}, {"max_iterations": True}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(StudyError, match=next(iter(bad))):
        LRMinimaPruner(**bad)


def test_a_real_search_on_sqlite(tmp_path):
    """Digits and an MLP: what is stopped is PRUNED, and costs less than its budget."""
    url = f"sqlite:///{tmp_path / 'lr.db'}"
    study = create_study(
        "digits",
        "mlp",
        max_iterations=40,
        database=url,
        storage=f"sqlite:///{tmp_path / 'optuna.db'}",
        pruner=LRMinimaPruner(),
        seed=0,
        points_to_evaluate=[LRPolicy("FIX", k0=lr) for lr in (0.1, 0.05, 0.03, 1e-5)],
    )
    study.optimize(Objective("digits", "mlp", database=url), n_trials=4)
    *good, hopeless = study.trials
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in good)
    assert hopeless.state == optuna.trial.TrialState.PRUNED
    assert max(hopeless.intermediate_values) < 40


def test_threads_share_a_pruner():
    study = plain_study()

    def objective(trial):
        trial.set_user_attr("policy", FIX.to_dict())
        told = values(trial.suggest_float("end", 0.1, 0.9))
        for step, value in told.items():
            trial.report(value, step)
            if step < BUDGET and trial.should_prune():
                raise optuna.TrialPruned
        return told[BUDGET]

    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.optimize(objective, n_trials=40, n_jobs=4)
    states = [trial.state for trial in study.trials]
    assert set(states) == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    assert states.count(optuna.trial.TrialState.PRUNED) > 10
    best = max(study.trials, key=lambda trial: trial.params["end"])
    assert best.state == optuna.trial.TrialState.COMPLETE


def test_a_pareto_study_never_asks_it():
    study = create_study(
        "digits", "mlp", objective="pareto", pruner=LRMinimaPruner(), database="sqlite://"
    )
    trial = study.ask()
    suggest_policy(trial)
    study.tell(trial, (0.9, 10.0, 0.1))
    assert len(study.best_trials) == 1

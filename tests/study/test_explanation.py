"""Why a trial got its policy: what is read from the trial, and how it is put in words."""

import json

import optuna
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from optuna.trial import TrialState

from lrbench_hpo import create_study, score, suggest_policy
from lrbench_hpo.errors import StudyError
from lrbench_hpo.study.explanation import Explanation, explain
from lrbench_hpo.study.policy_search import FIRST_ROWS
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import trial_params

MEMORY = "sqlite://"
# What a sampler leaves on a trial.
SAID = {
    "source": "surrogate",
    "mean": -0.5,
    "spread": 0.4,
    "prior_weight": 0.72,
    "tasks": [
        {"task": "digits/mlp", "weight": 0.11, "similarity": 0.5},
        {"task": "mnist/lenet", "weight": 0.61, "similarity": 0.8, "agreement": 0.7},
    ],
}
IN_SCORES = {"expected_score": 0.8, "low": 0.7, "high": 0.85, "chance": 0.31}


def response(trial):
    """A made-up score: the nearer the LR at the start is to 0.1, the better."""
    start = max(suggest_policy(trial)(1), 1e-9)
    top1 = max(0.1, 0.9 - abs(start - 0.1))
    return score(top1=top1, iterations_to_best=50, max_iterations=100, loss_difference=0.0)


def told(said, value=0.75, *, before=(), direction="maximize", source="sampler LRBenchSampler"):
    """A study whose last trial carries this suggestion."""
    study = optuna.create_study(direction=direction)
    for number in before:
        study.tell(study.ask(), number)
    trial = study.ask()
    suggest_policy(trial, functions=["FIX"], max_iterations=100, reference_lr=0.1)
    trial.set_user_attr("source", source)
    trial.set_user_attr("suggestion", said)
    study.tell(trial, value)
    return explain(study, trial.number)


def test_every_trial_of_a_search_is_explained():
    study = create_study("cifar10", "resnet32", database=MEMORY, seed=3)
    study.optimize(response, n_trials=12)
    found = [explain(study, trial.number) for trial in study.trials]
    assert [each.trial for each in found] == list(range(12))
    assert [e.policy.to_dict() for e in found] == [t.user_attrs["policy"] for t in study.trials]
    assert [each.row for each in found[:FIRST_ROWS]] == list(range(1, FIRST_ROWS + 1))
    assert {each.source for each in found[:FIRST_ROWS]} == {"portfolio"}
    assert "Table IX" in str(found[0])
    assert any(each.source == "surrogate" for each in found[FIRST_ROWS:])
    for each in found:
        assert json.loads(json.dumps(each.to_dict(), allow_nan=False)) == each.to_dict()
        assert each.outcome.values == {"score": study.trials[each.trial].value}


def test_the_surrogates_numbers_are_told():
    study = create_study("cifar10", "resnet32", database=MEMORY, seed=3)
    study.optimize(response, n_trials=10)
    [*_, found] = [e for e in (explain(study, n) for n in range(10)) if e.source == "surrogate"]
    said = study.trials[found.trial].user_attrs["suggestion"]
    assert found.expectation.mean == said["mean"]
    assert found.expectation.spread == said["spread"]
    assert found.prior_weight == said["prior_weight"]
    assert {leaning.task for leaning in found.leanings} == {t["task"] for t in said["tasks"]}
    heard = [leaning for leaning in found.leanings if leaning.weight >= 0.005]
    assert heard
    assert all(f"{leaning.task}: weight" in str(found) for leaning in heard)


def test_expected_scores_are_compared_with_the_outcome():
    verdicts = {}
    for value in (0.6, 0.75, 0.9):
        found = told(SAID | IN_SCORES, value)
        verdicts[value] = found.outcome.against_expectation
    assert verdicts == {0.6: "worse", 0.75: "as expected", 0.9: "better"}
    assert "a score of 0.8, between 0.7 and 0.85; a chance of 31 %" in str(found)
    assert "better than expected" in str(found)


@pytest.mark.parametrize(
    ("direction", "value", "verdict", "gain"),
    [
        ("maximize", 0.9, "better", 0.1),
        ("maximize", 0.6, "worse", -0.2),
        ("minimize", 0.9, "worse", -0.2),
        ("minimize", 0.6, "better", 0.1),
    ],
)
def test_what_is_better_depends_on_the_direction(direction, value, verdict, gain):
    found = told(SAID | IN_SCORES, value, before=[0.7, 0.8], direction=direction)
    outcome = found.outcome
    assert outcome.against_expectation == verdict
    assert outcome.best_trial == (1 if direction == "maximize" else 0)
    assert outcome.against_best == pytest.approx(gain)
    assert ("better than the best before it" in str(found)) == (gain > 0)


def test_the_chance_to_beat_the_best_follows_from_mean_and_spread():
    # The best so far has the log regret 0: the normal distribution's share above it.
    assert told(SAID | {"mean": 0.0}).expectation.chance == pytest.approx(0.5)
    assert told(SAID | {"mean": -0.4}).expectation.chance == pytest.approx(0.1587, abs=1e-4)
    assert told(SAID | {"mean": 0.8}).expectation.chance == pytest.approx(0.9772, abs=1e-4)
    assert told(SAID | {"spread": 0.0}).expectation.chance is None
    assert "2 times the least difference" in str(told(SAID | {"mean": -1.0986}))


def test_the_most_believed_task_comes_first():
    found = told(SAID)
    assert [leaning.task for leaning in found.leanings] == ["mnist/lenet", "digits/mlp"]
    text = str(found)
    assert "weight 72 % in all" in text
    assert "mnist/lenet: weight 0.61, 80 % similar, rank agreement +0.70" in text
    assert "digits/mlp: weight 0.11, 50 % similar\n" in text


def test_tasks_that_had_no_say_are_left_out_in_words_only():
    unheard = {"task": "digits/mlp", "weight": 0.0, "similarity": 0.5}
    found = told(SAID | {"source": "exploration", "prior_weight": 0.0, "tasks": [unheard]})
    assert "digits/mlp" not in str(found)
    assert "no similar task" in str(found)
    assert [leaning.task for leaning in found.leanings] == ["digits/mlp"]


@pytest.mark.parametrize(
    ("said", "source", "expected", "words"),
    [
        ({"source": "portfolio", "row": 2}, "published for A/B", "portfolio", "row 2 of the port"),
        ({"source": "exploration"}, "sampler LRBenchSampler", "exploration", "exploration"),
        ({"source": "tpe"}, "sampler LRBenchSampler", "tpe", "Optuna's TPE"),
        ({"source": "given"}, "given by hand", "given", "given by hand"),
        (None, "given by hand", "given", "given by hand"),
        (None, "sampler TPESampler", "tpe", "Optuna's TPE"),
        (None, "sampler RandomSampler", "sampler", "sampler RandomSampler"),
        (None, "published for A/B", "portfolio", "a known-good policy: published for A/B"),
        (None, "", "sampler", "does not say why"),
    ],
)
def test_where_it_came_from_in_words(said, source, expected, words):
    found = told(said, source=source)
    assert found.source == expected
    assert words in str(found)


def test_a_policy_given_by_hand_or_by_another_sampler():
    study = create_study("mnist", "lenet", database=MEMORY, functions=["FIX"])
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.enqueue_trial(trial_params("FIX", {"peak": 3.0}))
    study.optimize(response, n_trials=8)
    found = [explain(study, trial.number) for trial in study.trials]
    assert "given" in {each.source for each in found}
    assert found[-1].origin == "sampler RandomSampler"


def test_trials_that_did_not_finish():
    study = create_study("mnist", "lenet", database=MEMORY, functions=["FIX"])
    running, pruned, failed, diverged = (study.ask() for _ in range(4))
    for trial in (running, pruned, failed, diverged):
        suggest_policy(trial)
    pruned.report(0.5, 100)
    pruned.report(0.6, 250)
    pruned.report(float("nan"), 300)
    study.tell(pruned, state=TrialState.PRUNED)
    study.tell(failed, state=TrialState.FAIL)
    diverged.set_user_attr("status", "diverged")
    study.tell(diverged, -1.0)
    assert explain(study, running.number).outcome.state == "running"
    stopped = explain(study, pruned.number).outcome
    assert (stopped.state, stopped.step, stopped.values) == ("pruned", 250, {"score": 0.6})
    assert "stopped at step 250, score 0.6" in str(explain(study, pruned.number))
    assert explain(study, failed.number).outcome.state == "failed"
    assert "it diverged" in str(explain(study, diverged.number))


def test_three_objectives_have_their_names():
    study = create_study("mnist", "lenet", database=MEMORY, objective="pareto", functions=["FIX"])
    study.optimize(lambda trial: (suggest_policy(trial)(0), 50.0, 0.1), n_trials=2)
    outcome = explain(study, 1).outcome
    assert list(outcome.values) == ["top1", "iterations_to_best", "loss_difference"]
    assert (outcome.best_before, outcome.against_best) == (None, None)


def test_a_plain_study_with_policies_is_explained_too():
    study = optuna.create_study()
    trial = study.ask()
    policy = suggest_policy(trial, functions=["FIX"], max_iterations=10, reference_lr=0.1)
    study.tell(trial, 0.25)
    found = explain(study, 0)
    assert found.policy == policy
    assert found.source == "tpe"
    assert found.outcome.values == {"value": 0.25}


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (5, "trial 5: study 'one' has no such trial; its trials: 0 only"),
        (-1, "trial -1"),
        (True, "trial True"),
        ("0", "trial '0'"),
        (0, "trial 0 of study 'one' has no LR policy"),
    ],
)
def test_trials_that_cannot_be_explained(number, says):
    settings = StudySettings.of(create_study("mnist", "lenet", database=MEMORY))
    study = optuna.create_study(study_name="one", direction="maximize")
    settings.keep_in(study)
    study.tell(study.ask(), 0.5)
    with pytest.raises(StudyError, match="trial") as failed:
        explain(study, number)
    assert says in str(failed.value)
    assert "\n" not in str(failed.value)


def test_the_range_of_trials_is_told():
    study = create_study("mnist", "lenet", database=MEMORY)
    study.optimize(response, n_trials=7)
    with pytest.raises(StudyError, match="its trials: 0 to 6"):
        explain(study, 7)


def test_a_study_that_knows_no_lr_task_says_so():
    study = optuna.create_study(study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="'plain' knows no LR task"):
        explain(study, 0)


def test_a_policy_that_is_none_is_one_line():
    study = create_study("mnist", "lenet", database=MEMORY)
    trial = study.ask()
    suggest_policy(trial)
    for wrong in ({"function": "FIX", "k0": -1}, "FIX(k0=0.1)", 7):
        trial.set_user_attr("policy", wrong)
        with pytest.raises(StudyError, match="is no policy"):
            explain(study, trial.number)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("source", "row", "mean", "spread", "low", "high", "chance", "prior_weight", "why", "tasks")


@example({"row": 10**400, "mean": -(10**400), "tasks": [{"weight": 10**400}]})
@given(JSON | st.dictionaries(st.sampled_from(NAMES), JSON))
def test_whatever_others_write_there_is_explained_in_plain_lines(said):
    found = told(said)
    assert isinstance(found, Explanation)
    json.dumps(found.to_dict(), allow_nan=False)
    assert all(line.isprintable() for line in str(found).split("\n"))

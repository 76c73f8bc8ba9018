"""The sampler as a citizen of Optuna: its public test cases, storages, pruners, seeds."""

import ast
import json
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

import lrbench_hpo
from lrbench_hpo import LRPolicy, connect, create_study, recommend, suggest_policy
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.study.policy_search import FIRST_ROWS
from lrbench_hpo.study.sampler import LRBenchSampler
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.storage import open_storage
from lrbench_hpo.study.suggest import FUNCTION, trial_params

MEMORY = "sqlite://"
SOURCES = {"portfolio", "surrogate", "exploration", "tpe", "given"}
T = 10_000


@pytest.fixture(scope="module")
def database():
    """The published runs."""
    with connect(MEMORY) as opened:
        yield opened


@pytest.fixture
def alone(database):
    """The sampler by itself, as in a study that knows no LR task yet."""

    def make(seed=0, dataset="mnist", model="lenet", **more):
        more = {"database": database, "max_iterations": T} | more
        return LRBenchSampler(dataset, model, seed=seed, **more)

    return make


def quality(policy):
    """A made-up score: best where the mean LR is 0.02 and the LR ends low."""
    lrs = policy(np.linspace(0, T - 1, 64).round())
    off = abs(np.log10(max(lrs.mean(), 1e-9)) - np.log10(0.02))
    end = 0.02 * np.log10(max(lrs[-1], 1e-6) / lrs.max())
    return float(0.9 - 0.2 * off - end)


def response(trial):
    return quality(suggest_policy(trial))


def policies(study):
    return [json.dumps(trial.user_attrs["policy"], sort_keys=True) for trial in study.trials]


def maximised(sampler, n_trials, objective=response, **options):
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=n_trials, **options)
    return study


# Optuna's own test cases


class TestPlain(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Without a task: in any study at all."""

    @pytest.fixture
    def sampler(self):
        return lambda: LRBenchSampler(seed=0)


def others():
    """TPE as Optuna gives it to these cases; else it leaves its first trials to chance."""
    return optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestPlainRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: LRBenchSampler(others=others())


class TestWithATask(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """With a task, in studies whose objectives never ask for a policy."""

    @pytest.fixture
    def sampler(self, alone):
        return alone


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestWithATaskRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self, alone):
        return lambda: alone(others=others())


class TestPareto(MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self, alone):
        return lambda: alone(objective="pareto")


# In a study of one's own


def test_by_itself_it_begins_with_the_best_known(alone, database):
    study = maximised(alone(), 9)
    known = recommend("mnist", "lenet", FIRST_ROWS, max_iterations=T, database=database)
    first, later = study.trials[:FIRST_ROWS], study.trials[FIRST_ROWS:]
    assert [LRPolicy.from_dict(t.user_attrs["policy"]) for t in first] == [
        entry.policy for entry in known
    ]
    for row, (trial, entry) in enumerate(zip(first, known, strict=True), start=1):
        said = {"source": "portfolio", "row": row, "why": entry.why}
        assert trial.user_attrs["suggestion"] == said
        assert trial.user_attrs["source"] == entry.source
    assert StudySettings.of(study).scale.max_iterations == T
    assert all(t.user_attrs["suggestion"]["source"] != "portfolio" for t in later)
    assert {t.user_attrs["source"] for t in later} == {"sampler LRBenchSampler"}


def test_create_study_and_the_sampler_by_itself_begin_alike(alone, database):
    ours = create_study("mnist", "lenet", max_iterations=T, database=database, seed=3)
    ours.optimize(response, n_trials=5)
    by_itself = maximised(alone(3), 5)
    assert policies(ours)[:FIRST_ROWS] == policies(by_itself)[:FIRST_ROWS]
    said = [[t.user_attrs["suggestion"].get("row") for t in s.trials] for s in (ours, by_itself)]
    assert said[0] == said[1] == [*range(1, FIRST_ROWS + 1), *[None] * (5 - FIRST_ROWS)]


def test_every_suggestion_says_where_it_came_from(alone):
    study = maximised(alone(), 24)
    sources = set()
    for trial in study.trials:
        said = trial.user_attrs["suggestion"]
        assert json.loads(json.dumps(said, allow_nan=False)) == said
        assert said["source"] in SOURCES
        sources.add(said["source"])
        weights = [task["weight"] for task in said.get("tasks", ())]
        assert all(0 <= weight <= 1 for weight in weights)
        assert sum(weights) <= 1 + 1e-9
        if said["source"] == "surrogate":
            assert np.isfinite([said["mean"], said["spread"]]).all()
            assert said["spread"] > 0
    # A share of all suggestions explores.
    assert {"portfolio", "surrogate", "exploration"} <= sources


def test_every_suggestion_is_explained(alone):
    study = maximised(alone(), 12)
    for trial in study.trials:
        found = lrbench_hpo.explain(study, trial.number)
        assert found.source == trial.user_attrs["suggestion"]["source"]


def test_a_loaded_study_brings_its_own_task(database, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    made = create_study(
        "cifar10",
        "resnet32",
        max_iterations=T,
        functions=["SINEXP", "FIX"],
        database=database,
        storage=url,
        study_name="s",
    )
    made.optimize(response, n_trials=2)
    study = optuna.load_study(study_name="s", storage=url, sampler=LRBenchSampler(seed=1))
    study.optimize(response, n_trials=10)
    assert {t.params[FUNCTION] for t in study.trials} <= {"SINEXP", "FIX"}
    assert len(set(policies(study))) == 12
    assert {t.user_attrs["suggestion"]["source"] for t in study.trials[2:]} & {"surrogate"}


def test_without_a_task_it_is_the_other_sampler():
    def objective(trial):
        x, n = trial.suggest_float("x", -3, 3), trial.suggest_int("n", 1, 9)
        return (x - 1) ** 2 + n * (trial.suggest_categorical("c", ["a", "b"]) == "a")

    found = []
    for sampler in (
        optuna.samplers.TPESampler(seed=4),
        LRBenchSampler(others=optuna.samplers.TPESampler(seed=4)),
    ):
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=20)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]


def test_one_sampler_serves_several_studies(database):
    sampler = LRBenchSampler(seed=0)
    studies = [
        create_study("mnist", "lenet", max_iterations=T, functions=["FIX"], database=database),
        create_study("mnist", "lenet", max_iterations=99, functions=["COS"], database=database),
        optuna.create_study(),
    ]
    for _ in range(8):
        for study in studies[:2]:
            study.sampler = sampler
            study.optimize(response, n_trials=1)
    studies[2].sampler = sampler
    studies[2].optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert {t.params[FUNCTION] for t in studies[0].trials} == {"FIX"}
    assert {t.params[FUNCTION] for t in studies[1].trials} == {"COS"}
    assert all(t.params.keys() == {"x"} for t in studies[2].trials)


def test_a_study_with_the_name_of_another_one_is_another_one(alone):
    sampler, studies = alone(0), []
    for _ in range(2):
        study = optuna.create_study(study_name="same", direction="maximize", sampler=sampler)
        study.optimize(response, n_trials=12)
        studies.append(policies(study))
    assert studies[0] == studies[1]


def test_the_minimum_of_the_negative_is_the_maximum(alone):
    up = maximised(alone(7), 14)
    down = optuna.create_study(direction="minimize", sampler=alone(7))
    down.optimize(lambda trial: -response(trial), n_trials=14)
    assert policies(up) == policies(down)


def test_a_search_gets_nearer(alone):
    """Where no similar task knows the answer, own results have to lead there."""
    study = maximised(alone(0), 40)
    values = [trial.value for trial in study.trials]
    assert max(values[10:]) > max(values[:5])
    assert np.median(values[20:]) > np.median(values[:10])


def test_a_policy_given_by_hand_is_kept(alone):
    study = optuna.create_study(direction="maximize", sampler=alone())
    for peak in (0.5, 2.0):
        study.enqueue_trial(trial_params("FIX", {"peak": peak}))
    study.optimize(response, n_trials=6)
    assert [t.params.get("FIX.peak") for t in study.trials[:2]] == [0.5, 2.0]
    for trial in study.trials[:2]:
        assert trial.user_attrs["source"] == "given by hand"
        assert trial.user_attrs.get("suggestion", {"source": "given"})["source"] == "given"
    # What was given by hand takes no known-good policy's place.
    rows = [t.user_attrs["suggestion"].get("row") for t in study.trials[2:]]
    assert rows[0] == 1
    assert len(set(policies(study))) == 6


# Other parameters in the same study


def test_other_parameters_are_searched_along(alone):
    def off(found):
        decay, layers, kind = (found[name] for name in ("decay", "layers", "kind"))
        return abs(np.log10(decay) + 3) + abs(layers - 20) / 8 + 3 * (kind != "b")

    def objective(trial):
        decay = trial.suggest_float("decay", 1e-6, 1e-1, log=True)  # before the policy
        value = response(trial)
        layers = trial.suggest_int("layers", 1, 32)  # and after it
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        return 0.1 * value - 0.1 * off({"decay": decay, "layers": layers, "kind": kind})

    study = maximised(alone(1), 60, objective)
    assert all({"decay", "layers", "kind", FUNCTION} <= t.params.keys() for t in study.trials)
    assert all("suggestion" in t.user_attrs for t in study.trials)
    means = [np.mean([off(t.params) for t in study.trials[n : n + 20]]) for n in (0, 20, 40)]
    assert means[2] < 0.7 * means[0]


def test_other_parameters_may_be_asked_for_on_some_trials_only(alone):
    def objective(trial):
        value = response(trial)
        if trial.params[FUNCTION] in ("FIX", "SINEXP"):
            value -= abs(trial.suggest_float("x", 0, 1) - 0.5)
        return value

    study = maximised(alone(), 20, objective)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.NSGAIISampler(population_size=4, seed=0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_another_sampler_for_the_others(sampler, alone):
    def objective(trial):
        return response(trial) + trial.suggest_categorical("x", [1, 2, 3, 4])

    study = maximised(alone(others=sampler), 12, objective)
    assert all(t.params["x"] in (1, 2, 3, 4) for t in study.trials)
    assert "portfolio" in {t.user_attrs["suggestion"]["source"] for t in study.trials}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_fixed_function_is_kept(alone):
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.PartialFixedSampler({FUNCTION: "FIX"}, alone()),
    )
    study.optimize(response, n_trials=8)
    assert {t.params[FUNCTION] for t in study.trials} == {"FIX"}


# At once, and in several processes


def test_threads_never_try_the_same_twice(alone):
    study = maximised(alone(), 40, n_jobs=4)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert len(set(policies(study))) == 40
    rows = [t.user_attrs["suggestion"].get("row") for t in study.trials]
    rows = [row for row in rows if row is not None]
    assert sorted(rows) == list(range(1, len(rows) + 1))


def test_trials_asked_for_at_once_differ(alone):
    study = optuna.create_study(direction="maximize", sampler=alone())
    for _ in range(3):
        asked = [study.ask() for _ in range(6)]
        values = [response(trial) for trial in asked]
        for trial, value in zip(asked, values, strict=True):
            study.tell(trial, value)
    assert len(set(policies(study))) == 18


WORKER = """
import sys, time
import optuna
import lrbench_hpo
from lrbench_hpo.study.policy_search import FIRST_ROWS
from lrbench_hpo.study.sampler import LRBenchSampler
from lrbench_hpo.study.storage import open_storage

whose, url = sys.argv[1:]
task = {"max_iterations": 10_000, "database": "sqlite://", "seed": 0}
kept = {"storage": open_storage(url), "study_name": "shared", "load_if_exists": True}
if whose == "create_study":
    study = lrbench_hpo.create_study("mnist", "lenet", **task, **kept)
else:
    sampler = LRBenchSampler("mnist", "lenet", **task)
    study = optuna.create_study(direction="maximize", sampler=sampler, **kept)

def objective(trial):
    policy = lrbench_hpo.suggest_policy(trial)
    time.sleep(0.02)
    return 0.9 - abs(float(policy(5_000)) - 0.02)

study.optimize(objective, n_trials=10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["create_study", "by itself"])
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_processes_never_try_the_same_twice(kind, whose, tmp_path):
    url = f"{kind}:///{tmp_path / 'shared'}"
    open_storage(url)  # the tables, made by all at once, are Optuna's own concern
    command = [sys.executable, "-P", "-c", WORKER, whose, url]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], told
    study = optuna.load_study(study_name="shared", storage=open_storage(url))
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 30
    assert len(set(policies(study))) == 30
    sources = {t.user_attrs["suggestion"]["source"] for t in study.trials}
    assert {"portfolio", "surrogate"} <= sources


def storages(folder):
    yield "memory", None
    yield "sqlite", f"sqlite:///{folder / 'study.db'}"
    yield "journal", open_storage(f"journal:///{folder / 'study.log'}")


def test_every_storage_gets_the_same_suggestions(alone, tmp_path):
    found = {}
    for name, storage in storages(tmp_path):
        study = optuna.create_study(direction="maximize", storage=storage, sampler=alone(5))
        study.optimize(response, n_trials=12)
        found[name] = policies(study)
    assert found["memory"] == found["sqlite"] == found["journal"]


# Seeds


def test_the_same_seed_gives_the_same_suggestions_and_another_one_others(alone):
    first, again, other = (policies(maximised(alone(seed), 14)) for seed in (2, 2, 3))
    assert first == again
    assert first != other


def test_a_sampler_that_is_pickled_in_the_middle_goes_on(alone):
    whole = maximised(alone(2), 14)
    broken = optuna.create_study(direction="maximize", sampler=alone(2))
    for _ in range(14):
        broken.sampler = pickle.loads(pickle.dumps(broken.sampler))  # noqa: S301
        broken.optimize(response, n_trials=1)
    assert policies(whole) == policies(broken)


def test_a_sampler_made_anew_in_the_middle_repeats_nothing(alone, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(direction="maximize", storage=url, study_name="s")
    for _ in range(4):
        study = optuna.load_study(study_name="s", storage=url, sampler=alone(2))
        study.optimize(response, n_trials=4)
    assert len(set(policies(study))) == 16
    rows = [t.user_attrs["suggestion"].get("row") for t in study.trials]
    rows = [row for row in rows if row is not None]
    assert rows == list(range(1, len(rows) + 1))


ANEW = """
import json, sys
import optuna
from lrbench_hpo import suggest_policy
from lrbench_hpo.study.policy_search import FIRST_ROWS
from lrbench_hpo.study.sampler import LRBenchSampler

sampler = LRBenchSampler("mnist", "lenet", max_iterations=10_000, database="sqlite://", seed=6)
study = optuna.create_study(direction="maximize", sampler=sampler)
study.optimize(lambda trial: -abs(suggest_policy(trial)(5_000) - 0.02), n_trials=12)
print(json.dumps([trial.user_attrs["policy"] for trial in study.trials]))
"""


def test_the_same_seed_gives_the_same_suggestions_in_a_new_process(alone):
    done = subprocess.run(
        [sys.executable, "-P", "-c", ANEW], capture_output=True, text=True, check=True
    )
    here = maximised(alone(6), 12, lambda trial: -abs(suggest_policy(trial)(5_000) - 0.02))
    assert json.loads(done.stdout) == [t.user_attrs["policy"] for t in here.trials]


# Several objectives, pruners


def three(trial):
    policy = suggest_policy(trial)
    top1 = quality(policy)
    return top1, 5_000.0 + 4_000 * float(policy(0) > 0.01), abs(top1 - 0.5)


@pytest.mark.parametrize("whose", ["create_study", "by itself"])
def test_three_objectives(whose, alone, database):
    if whose == "create_study":
        study = create_study(
            "mnist", "lenet", max_iterations=T, objective="pareto", database=database, seed=0
        )
    else:
        directions = ["maximize", "minimize", "minimize"]
        study = optuna.create_study(directions=directions, sampler=alone(objective="pareto"))
    study.optimize(three, n_trials=20)
    assert len(set(policies(study))) == 20
    assert StudySettings.of(study).objective == "pareto"
    assert "surrogate" in {t.user_attrs["suggestion"]["source"] for t in study.trials[5:]}
    assert study.best_trials


def reporting(trial):
    value = response(trial)
    for step in range(1, 10):
        trial.report(value * step / 9, step * T // 9)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.MedianPruner(n_startup_trials=3),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=T // 9, reduction_factor=2),
        optuna.pruners.HyperbandPruner(min_resource=T // 9, max_resource=T, reduction_factor=3),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_any_pruner(pruner, n_jobs, alone):
    study = optuna.create_study(direction="maximize", sampler=alone(), pruner=pruner)
    study.optimize(reporting, n_trials=30, n_jobs=n_jobs)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(set(policies(study))) == 30
    assert "surrogate" in {t.user_attrs["suggestion"]["source"] for t in study.trials}


# Results that teach nothing


def test_all_trials_fail(alone):
    def objective(trial):
        suggest_policy(trial)
        raise ZeroDivisionError

    study = maximised(alone(), 15, objective, catch=ZeroDivisionError)
    assert {t.state for t in study.trials} == {TrialState.FAIL}
    assert len(set(policies(study))) == 15


@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, 1e300, float("inf"), float("-inf")])
def test_constant_results(value, alone):
    def objective(trial):
        suggest_policy(trial)
        return value

    study = maximised(alone(), 15, objective)
    assert len(set(policies(study))) == 15


def test_results_that_are_no_numbers(alone):
    def objective(trial):
        value = response(trial)
        return float("nan") if trial.number % 2 else value

    study = maximised(alone(), 16, objective)
    assert len(set(policies(study))) == 16


def test_every_trial_diverges(alone):
    def objective(trial):
        suggest_policy(trial)
        trial.set_user_attr("status", "diverged")
        return -1.0

    study = maximised(alone(), 16, objective)
    assert len(set(policies(study))) == 16


def test_diverging_peaks_are_avoided(alone, database):
    def objective(trial):
        policy = suggest_policy(trial)
        if policy.bounds[1] > 0.05:
            trial.set_user_attr("status", "diverged")
            return -1.0
        return quality(policy)

    def diverged(study):
        return sum(t.user_attrs.get("status") == "diverged" for t in study.trials)

    blind = create_study(
        *("mnist", "lenet"),
        max_iterations=T,
        database=database,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    blind.optimize(objective, n_trials=40)
    assert diverged(maximised(alone(), 40, objective)) < 0.6 * diverged(blind)


def test_a_budget_of_one_trial(alone, database):
    study = maximised(alone(), 1)
    [best] = recommend("mnist", "lenet", 1, max_iterations=T, database=database)
    assert LRPolicy.from_dict(study.best_trial.user_attrs["policy"]) == best.policy


# Studies that do not fit


SPACE = """
version: 1
functions:
  FIX:
    peak: {{low: {low}, high: 10, log: true}}
"""


def test_a_space_file_that_changed_is_one_clear_line(alone, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(SPACE.format(low=0.1))
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        study.sampler = alone(search_space=file)
        study.optimize(response, n_trials=1)
    file.write_text(SPACE.format(low=0.2))
    study.sampler = alone(search_space=file)
    with pytest.raises(StudyError, match="another search space") as failed:
        study.optimize(response, n_trials=1)
    assert "\n" not in str(failed.value)


def test_a_study_of_another_task_is_one_clear_line(alone, database):
    study = create_study("mnist", "lenet", max_iterations=T, database=database)
    study.sampler = alone(dataset="cifar10", model="resnet32")
    with pytest.raises(StudyError, match="mnist"):
        study.optimize(response, n_trials=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dataset": "mnist", "model": None}, "model"),
        ({"dataset": None, "model": "lenet"}, "dataset"),
        ({"dataset": None, "model": None, "functions": ["FIX"]}, "functions"),
        ({"objective": "accuracy"}, "accuracy"),
        ({"functions": ["FIXX"]}, "FIXX"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"others": "tpe"}, "others"),
        ({"reference_lr": -1.0}, "reference_lr"),
    ],
)
def test_bad_arguments_are_one_clear_line(options, says, database):
    given = {"dataset": "mnist", "model": "lenet", "database": database} | options
    if given["dataset"] is None:
        del given["database"]
    with pytest.raises(LRBenchError) as failed:
        maximised(LRBenchSampler(given.pop("dataset"), given.pop("model"), **given), 1)
    assert says in str(failed.value)
    assert "\n" not in str(failed.value)


def test_more_objectives_than_were_asked_for_are_one_clear_line(alone):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=alone())
    with pytest.raises(StudyError, match="objective"):
        study.optimize(lambda trial: (response(trial), 0.0), n_trials=1)


# No private member of Optuna


USERS = [
    file
    for file in sorted(pathlib.Path(lrbench_hpo.__file__).parent.rglob("*.py"))
    if re.search(r"^\s*(import|from) optuna\b", file.read_text(encoding="utf-8"), re.MULTILINE)
]


def private(tree):
    """Private members of others' objects, and others' private modules, that some code names."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {node.attr for node in ast.walk(tree) if _of_oneself(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _hidden(node.attr) and node.attr not in own:
            if not (isinstance(node.value, ast.Name) and node.value.id == "sys"):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from filter(_hidden, names)
        elif isinstance(node, ast.Import):
            parts = [part for alias in node.names for part in alias.name.split(".")]
            yield from filter(_hidden, parts)


def _of_oneself(node):
    of_name = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return of_name and node.value.id in ("self", "cls")


def _hidden(name):
    return name.startswith("_") and not name.startswith("__")


def test_the_search_for_private_members_finds_them():
    code = "import optuna._x\nfrom optuna.samplers._tpe import y\nstudy._storage.z\nself._mine"
    assert set(private(ast.parse(code))) == {"_x", "_tpe", "study._storage"}


@pytest.mark.parametrize("file", USERS, ids=lambda file: file.stem)
def test_no_private_member_of_optuna_is_touched(file):
    assert {"sampler", "history"} <= {user.stem for user in USERS}
    assert not list(private(ast.parse(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    ("half", "says"),
    [
        ({"dataset": "mnist"}, "dataset='mnist': .* needs model too"),
        ({"dataset": ""}, "dataset='': .* needs model too"),
        ({"dataset": "", "max_iterations": 300}, "dataset='': .* needs model too"),
        ({"model": "lenet"}, "model='lenet': .* needs dataset too"),
        ({"max_iterations": 300}, "max_iterations=300: .* needs dataset and model too"),
        ({"objective": "score"}, "objective='score': .* needs dataset and model too"),
    ],
)
def test_half_a_task_is_refused(half, says):
    with pytest.raises(StudyError, match=says):
        LRBenchSampler(**half)

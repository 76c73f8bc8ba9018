"""Optuna studies: what is in them, whoever opens them, however often."""

import json
import subprocess
import sys
import threading

import optuna
import pytest

import lrbench_hpo
from lrbench_hpo import LRPolicy, create_study, suggest_policy
from lrbench_hpo.errors import LRBenchError, StudyError, UnknownNameError
from lrbench_hpo.policies import ALL_FUNCTIONS, DEFAULT_FUNCTIONS
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.study.optuna_internals import enqueued_params
from lrbench_hpo.study.policy_search import FIRST_ROWS
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.storage import open_storage
from lrbench_hpo.study.suggest import distributions, trial_params

MEMORY = "sqlite://"
# Of a sampler that is not ours, studies get the whole portfolio as waiting trials.
OTHER = optuna.samplers.RandomSampler(seed=0)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def waiting(study):
    return study.get_trials(states=(optuna.trial.TrialState.WAITING,))


def score_of(trial):
    """A made-up response: higher LRs are better, in the range a real score has."""
    policy = suggest_policy(trial)
    return min(0.9, policy(1) + 0.5)


def test_the_first_trials_are_the_papers_best():
    study = create_study("cifar10", "resnet32", database=MEMORY)
    assert isinstance(study, optuna.Study)
    first = [suggest_policy(study.ask()) for _ in range(FIRST_ROWS)]
    assert first[0] == LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)
    best = lrbench_hpo.recommend("cifar10", "resnet32", FIRST_ROWS, database=MEMORY)
    assert first == [entry.policy for entry in best]


def test_every_trial_says_its_policy_and_where_it_came_from():
    study = create_study("cifar10", "resnet32", database=MEMORY, seed=1)
    study.optimize(score_of, n_trials=8)
    for trial in study.trials:
        policy = LRPolicy.from_dict(trial.user_attrs["policy"])
        assert policy.function == trial.params["lr_function"]
        assert set(trial.params) == {
            "lr_function",
            *(name for name in trial.params if name.startswith(policy.function + ".")),
        }
        known = trial.number < FIRST_ROWS
        expected = "published for CIFAR-10/ResNet-32" if known else "sampler LRBenchSampler"
        assert trial.user_attrs["source"].startswith(expected)


def test_what_a_user_enqueues_is_not_the_samplers():
    study = create_study("mnist", "lenet", database=MEMORY, functions=["FIX"])
    study.enqueue_trial(trial_params("FIX", {"peak": 3.0}))
    study.optimize(score_of, n_trials=8)
    [mine] = [t for t in study.trials if t.params["FIX.peak"] == 3.0]
    assert mine.user_attrs["source"] == "given by hand"


# Two of them are the same point at the edge of the space.
GIVEN = (
    LRPolicy("TRI", k0=1 / 3e4, k1=1 / 7, l=77),
    LRPolicy("FIX", k0=1e-7),
    LRPolicy("FIX", k0=2e-7),
)


def test_points_of_ones_own_come_first_and_exactly():
    points = [GIVEN[0], {"lr_policy": GIVEN[1].to_dict(), "decay": 0.25}, {"lr_policy": GIVEN[2]}]
    study = create_study("mnist", "lenet", database=MEMORY, points_to_evaluate=points)
    decays = []

    def objective(trial):
        decays.append(trial.suggest_float("decay", 0, 1))
        return score_of(trial)

    study.optimize(objective, n_trials=4)
    policies = [LRPolicy.from_dict(trial.user_attrs["policy"]) for trial in study.trials[:4]]
    assert tuple(policies[:3]) == GIVEN
    assert decays[1] == 0.25
    sources = [trial.user_attrs["source"] for trial in study.trials[:4]]
    assert sources[:3] == ["given by hand"] * 3
    assert sources[3].startswith("published")


@pytest.mark.slow
def test_points_of_ones_own_are_enqueued_once_over_restarts(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    for points in (GIVEN, GIVEN[:2], GIVEN):
        study = create_study("mnist", "lenet", points_to_evaluate=points, **make)
        assert len(waiting(study)) == 3
    late = create_study("mnist", "lenet", points_to_evaluate=[LRPolicy("FIX", k0=0.5)], **make)
    assert len(waiting(late)) == 4


def test_a_point_of_ones_own_that_was_broken_off_is_the_same_again(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    study = create_study("mnist", "lenet", points_to_evaluate=GIVEN[:1], **make)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    again = create_study("mnist", "lenet", **make)
    again.optimize(score_of, n_trials=6)
    done = [LRPolicy.from_dict(t.user_attrs["policy"]) for t in again.trials if t.value is not None]
    assert GIVEN[0] in done


def test_what_was_broken_off_is_asked_for_again(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    study = create_study("mnist", "lenet", **make)

    def broken_off(trial):
        suggest_policy(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.optimize(broken_off, n_trials=1)
    again = create_study("mnist", "lenet", **make)
    assert len(waiting(again)) == 1
    assert len(waiting(create_study("mnist", "lenet", **make))) == 1
    again.optimize(score_of, n_trials=6)
    first = study.trials[0].params
    rows = [t.user_attrs["suggestion"].get("row") for t in again.trials]
    assert rows[: FIRST_ROWS + 1] == [1, *range(1, FIRST_ROWS + 1)]
    done = [t.params for t in again.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert first in done


def test_a_later_search_with_the_same_seed_draws_other_policies(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    for _ in range(2):
        create_study("mnist", "lenet", seed=0, **make).optimize(score_of, n_trials=8)
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert len({str(sorted(t.params.items())) for t in trials}) == len(trials)


@pytest.mark.parametrize("functions", [[f] for f in ALL_FUNCTIONS] + [None, "all", ["FIX", "COS"]])
def test_sampled_policies_stay_within_the_space(functions):
    study = create_study(
        "digits", "mlp", database=MEMORY, functions=functions, max_iterations=300, seed=0
    )
    space = StudySettings.of(study).space
    wanted = {None: DEFAULT_FUNCTIONS, "all": ALL_FUNCTIONS}
    expected = functions if isinstance(functions, list) else wanted[functions]
    assert set(space.functions) == set(expected)
    for _ in range(12):
        trial = study.ask()
        policy = suggest_policy(trial)
        assert policy.function in expected
        ranges = distributions(space, policy.function)
        for name, value in trial.params.items():
            if name != "lr_function":
                assert ranges[name]._contains(ranges[name].to_internal_repr(value))
        study.tell(trial, 0.5)


def test_nstep_has_as_many_gaps_as_drops():
    study = create_study("digits", "mlp", database=MEMORY, functions=["NSTEP"], seed=0)
    for _ in range(15):
        trial = study.ask()
        policy = suggest_policy(trial)
        gaps = [name for name in trial.params if name.startswith("NSTEP.gap")]
        assert len(gaps) == trial.params["NSTEP.drops"] == len(policy.l)
        study.tell(trial, 0.5)


@pytest.mark.slow
def test_distributions_never_change_within_a_study(storage):
    """An RDB storage refuses a name whose distribution changes; so this must not raise."""
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    for seed in range(3):
        study = create_study("mnist", "lenet", seed=seed, **make)
        study.optimize(score_of, n_trials=10)
    seen = {}
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            assert seen.setdefault(name, distribution) == distribution


def test_the_portfolio_is_enqueued_once_over_restarts(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    make["sampler"] = OTHER
    assert len(waiting(create_study("mnist", "lenet", **make))) == 5
    study = create_study("mnist", "lenet", **make)
    assert len(waiting(study)) == 5
    study.optimize(score_of, n_trials=6)
    assert waiting(create_study("mnist", "lenet", **make)) == []


@pytest.mark.slow
def test_the_portfolio_is_enqueued_once_by_threads_at_once(storage):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    make["sampler"] = OTHER
    gate, failures = threading.Barrier(6), []

    def open_study():
        gate.wait()
        try:
            create_study("mnist", "lenet", **make)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_study) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    study = optuna.load_study(study_name="s", storage=storage)
    assert len(study.trials) == 5


WORKER = """
import sys
import lrbench_hpo
study = lrbench_hpo.create_study(
    "mnist", "lenet", database="sqlite://", storage=sys.argv[1], study_name="s", load_if_exists=True
)
study.optimize(lambda trial: min(0.9, lrbench_hpo.suggest_policy(trial)(1) + 0.5), n_trials=5)
"""


@pytest.mark.slow
def test_the_portfolio_is_enqueued_once_by_processes_at_once(tmp_path):
    storage = f"journal:///{tmp_path / 'study.log'}"
    workers = [subprocess.Popen([sys.executable, "-P", "-c", WORKER, storage]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    trials = optuna.load_study(study_name="s", storage=open_storage(storage)).trials
    assert len(trials) == 15
    published = [t for t in trials if t.user_attrs["source"].startswith("published")]
    assert len(published) == FIRST_ROWS


@pytest.mark.slow
def test_what_a_dead_creator_left_is_finished(storage, monkeypatch):
    """A worker that died between creating the study and enqueuing leaves no half a portfolio."""
    monkeypatch.setattr("lrbench_hpo.study.create.CREATOR_PATIENCE", 0.2)
    whole = create_study("mnist", "lenet", database=MEMORY, sampler=OTHER)
    settings = whole.user_attrs["lrbench"]
    half = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    half.set_user_attr("lrbench", settings)
    half.enqueue_trial(enqueued_params(waiting(whole)[0]))
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    study = create_study("mnist", "lenet", sampler=OTHER, **make)
    assert len(waiting(study)) == 5


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=2),
        optuna.samplers.NSGAIISampler(seed=0, population_size=3),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_any_sampler_works(sampler):
    study = create_study("mnist", "lenet", database=MEMORY, sampler=sampler)
    study.optimize(score_of, n_trials=10)
    assert study.sampler is sampler
    assert len(study.trials) == 10


def test_a_journal_storage_works(tmp_path):
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = create_study("mnist", "lenet", database=MEMORY, storage=storage, study_name="s")
    study.optimize(score_of, n_trials=7)
    assert len(study.trials) == 7


def test_the_same_seed_gives_the_same_suggestions():
    def suggestions():
        study = create_study("mnist", "lenet", database=MEMORY, seed=3)
        study.optimize(score_of, n_trials=15)
        return [trial.params for trial in study.trials]

    assert suggestions() == suggestions()


def test_pareto_has_three_directions():
    study = create_study("mnist", "lenet", database=MEMORY, objective="pareto")
    names = [direction.name for direction in study.directions]
    assert names == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    study.optimize(lambda trial: (score_of(trial), 100.0, 0.1), n_trials=15)
    assert study.best_trials


def test_ones_own_pruner_is_used():
    pruner = optuna.pruners.MedianPruner()
    assert create_study("mnist", "lenet", database=MEMORY, pruner=pruner).pruner is pruner
    default = create_study("mnist", "lenet", database=MEMORY).pruner
    assert isinstance(default, optuna.pruners.NopPruner)


def test_settings_are_json_and_hold_no_password(tmp_path):
    with lrbench_hpo.connect(tmp_path / "lr.db") as db:
        study = create_study("mnist", "lenet", database=db)
    text = json.dumps(study.user_attrs)
    assert str(tmp_path) not in text
    assert StudySettings.of(study).to_dict() == study.user_attrs["lrbench"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "cnn3"}, "model lenet"),
        ({"dataset": "kmnist"}, "dataset mnist"),
        ({"max_iterations": 50}, "max_iterations 10000"),
        ({"batch_size": 7}, "batch_size 100"),
        ({"functions": ["FIX"]}, "search space"),
        ({"objective": "pareto"}, "objective score"),
        ({"score_weights": {"iterations": 0.5}}, "score_weights"),
        ({"optimizer": "nesterov"}, "optimizer sgd"),
        ({"task": {"momentum": 0.5}}, "momentum 0.9"),
        ({"reference_lr": 0.5}, "reference_lr 0.01"),
    ],
)
def test_an_existing_study_of_something_else_is_refused(storage, change, says):
    make = {"dataset": "mnist", "model": "lenet", "database": MEMORY, "storage": storage}
    create_study(**make, study_name="s")
    with pytest.raises(StudyError, match=says):
        create_study(**{**make, **change}, study_name="s", load_if_exists=True)
    with pytest.raises(StudyError, match="taken"):
        create_study(**make, study_name="s")


def test_somebody_elses_study_is_refused(storage):
    optuna.create_study(storage=storage, study_name="s").optimize(lambda t: 1.0, n_trials=1)
    make = {"database": MEMORY, "storage": storage, "load_if_exists": True}
    with pytest.raises(StudyError, match="directions"):
        create_study("mnist", "lenet", study_name="s", **make)
    other = optuna.create_study(storage=storage, study_name="up", direction="maximize")
    other.optimize(lambda t: 1.0, n_trials=1)
    with pytest.raises(StudyError, match="knows no LR task"):
        create_study("mnist", "lenet", study_name="up", **make)


@pytest.mark.slow
def test_dead_creators_work_is_finished_by_one_of_many(storage, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.study.create.CREATOR_PATIENCE", 0.2)
    whole = create_study("mnist", "lenet", database=MEMORY)
    half = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    half.set_user_attr("lrbench", whole.user_attrs["lrbench"])
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    make["sampler"] = OTHER
    threads = [
        threading.Thread(target=create_study, args=("mnist", "lenet"), kwargs=make)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waiting(half)) == 5


def test_policies_for_a_study_of_ones_own():
    study = optuna.create_study()
    given = {"max_iterations": 100, "reference_lr": 0.1, "functions": ["NSTEP"]}
    assert suggest_policy(study.ask(), **given).function == "NSTEP"
    with pytest.raises(StudyError, match="knows no LR task"):
        suggest_policy(study.ask())
    with pytest.raises(StudyError, match="give both"):
        suggest_policy(study.ask(), max_iterations=100)
    ours = create_study("mnist", "lenet", database=MEMORY)
    with pytest.raises(StudyError, match="its own space"):
        suggest_policy(ours.ask(), **given)


def test_a_fixed_trial_gives_the_policy_of_its_parameters():
    trial = optuna.trial.FixedTrial(trial_params("FIX", {"peak": 2.0}))
    policy = suggest_policy(trial, max_iterations=100, reference_lr=0.1)
    assert policy == LRPolicy("FIX", k0=0.2)


def test_a_users_other_parameters_live_in_the_same_study():
    study = create_study("mnist", "lenet", database=MEMORY, seed=0)

    def objective(trial):
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
        return score_of(trial) - decay

    study.optimize(objective, n_trials=14)
    assert "weight_decay" in study.best_params


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"objective": "scor"}, UnknownNameError, "did you mean score"),
        ({"functions": ["SINNEXP"]}, UnknownNameError, "did you mean SINEXP"),
        ({"functions": []}, LRBenchError, "at least one"),
        ({"functions": 5}, LRBenchError, "functions=5"),
        ({"search_space": 3}, LRBenchError, "search_space=3"),
        ({"storage": 5}, LRBenchError, "storage=5"),
        ({"seed": "a"}, LRBenchError, "seed='a'"),
        ({"reference_lr": True}, LRBenchError, "reference_lr=True"),
        ({"score_weights": {"iteration": 1}}, LRBenchError, "iteration"),
        ({"max_iterations": 0}, LRBenchError, "max_iterations=0"),
        ({"reference_lr": float("nan")}, LRBenchError, "reference_lr"),
        ({"search_space": "no.yaml"}, LRBenchError, "no.yaml"),
        ({"task": {"momentum": "much"}}, LRBenchError, "momentum"),
        ({"points_to_evaluate": [5]}, StudyError, r"points_to_evaluate\[0\]=5"),
        ({"points_to_evaluate": [{"lr_policy": {"function": "FIX"}}]}, LRBenchError, "k0"),
        ({"points_to_evaluate": [LRPolicy("FIX", k0=1), {}]}, StudyError, r"evaluate\[1\]"),
    ],
)
def test_bad_input_is_one_line(arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        create_study("mnist", "lenet", **{"database": MEMORY, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [create_study, lrbench_hpo.LRBenchSampler])
@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "scor"},
        {"seed": "a"},
        {"score_weights": {"iteration": 1}},
        {"max_iterations": 0},
        {"batch_size": 0},
        {"optimizer": ""},
        {"functions": ["SINNEXP"]},
        {"search_space": "no.yaml"},
        {"task": {"momentum": "much"}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_bad_input_makes_no_database(make, wrong, tmp_path):
    with pytest.raises(LRBenchError):
        make("mnist", "lenet", database=tmp_path / "lr.db", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_every_space_fits_its_own_distributions():
    for name in ("default", "mnist-lenet", "cifar10-cnn3", "cifar10-resnet32"):
        space = load_space(name)
        assert all(distributions(space, function) for function in space.functions)


HANGING = """
import sys, time
import lrbench_hpo
study = lrbench_hpo.create_study(
    "mnist", "lenet", database="sqlite://", storage=sys.argv[1], study_name="s",
    load_if_exists=True, points_to_evaluate=[lrbench_hpo.LRPolicy("FIX", k0=0.02)],
)
def hang(trial):
    print(lrbench_hpo.suggest_policy(trial), flush=True)
    time.sleep(1000)
if sys.argv[2] == "optimize":
    study.optimize(hang)
hang(study.ask())
"""


@pytest.fixture
def hanging(storage):
    """Start processes that have a trial under way; they are killed in the end."""
    processes = []

    def start(how):
        program = [sys.executable, "-P", "-c", HANGING, storage, how]
        processes.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline()
        return processes[-1]

    yield start
    for process in processes:
        kill(process)
        process.stdout.close()


def kill(process):
    process.kill()
    process.wait()


def states(study):
    return [trial.state.name for trial in study.trials]


@pytest.mark.slow
def test_what_killed_processes_had_under_way_is_tried_again(storage, hanging):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    first, second = hanging("optimize"), hanging("optimize")
    assert states(create_study("mnist", "lenet", **make)) == ["RUNNING", "RUNNING"]
    kill(first)  # the other one goes on undisturbed
    assert states(create_study("mnist", "lenet", **make)) == ["FAIL", "RUNNING", "WAITING"]
    kill(second)
    again = create_study("mnist", "lenet", **make)
    assert states(again) == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert states(create_study("mnist", "lenet", **make)) == states(again)
    again.optimize(score_of, n_trials=2)
    policies = [t.user_attrs["policy"] for t in again.trials]
    sources = [t.user_attrs["source"] for t in again.trials]
    assert policies[:2] == policies[2:]
    assert sources[:2] == sources[2:]
    assert policies[0] == LRPolicy("FIX", k0=0.02).to_dict()
    assert sources[1].startswith("published")


def test_trials_that_another_process_may_tell_are_left_alone(storage, hanging):
    make = {"database": MEMORY, "storage": storage, "study_name": "s", "load_if_exists": True}
    kill(hanging("ask"))
    study = create_study("mnist", "lenet", **make)
    assert states(study) == ["RUNNING"]
    study.tell(0, 0.5)


@pytest.mark.slow
def test_a_storage_with_a_heartbeat_finds_the_dead_itself(storage, hanging):
    make = {"database": MEMORY, "study_name": "s", "load_if_exists": True}
    kill(hanging("optimize"))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        beating = optuna.storages.RDBStorage(storage, heartbeat_interval=60)
    assert states(create_study("mnist", "lenet", storage=beating, **make)) == ["RUNNING"]
    late = create_study("mnist", "lenet", storage=storage, **make)
    assert states(late) == ["FAIL", "WAITING"]

"""``explain`` from the shell."""

import json

import optuna
import pytest

from lrbench_hpo import create_study, suggest_policy
from lrbench_hpo.study.explanation import explain as explained
from lrbench_hpo.study.storage import open_storage


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A storage with a study of seven trials and a plain one; its URL."""
    url = f"sqlite:///{tmp_path_factory.mktemp('tuned') / 'study.db'}"
    study = create_study(
        "mnist", "lenet", database="sqlite://", storage=url, study_name="digits", seed=0
    )
    study.optimize(lambda trial: 0.9 - abs(suggest_policy(trial)(1) - 0.01), n_trials=7)
    study.tell(study.ask(), 0.5)  # it asked for no policy
    plain = optuna.create_study(storage=url, study_name="plain")
    plain.tell(plain.ask(), 0.5)
    return url


def test_it_says_why_a_trial_got_its_policy(run, tuned):
    code, out, err = run("explain", "digits", 0, "--storage", tuned)
    assert (code, err) == (0, "")
    assert out.startswith("trial 0 of study 'digits': complete\n")
    assert "a known-good policy" in out
    assert "published for MNIST/LeNet" in out
    assert "outcome" in out


def test_json_is_the_same_as_in_python(run, tuned):
    code, out, err = run("explain", "digits", 6, "--storage", tuned, "--json")
    assert (code, err) == (0, "")
    study = optuna.load_study(study_name="digits", storage=tuned)
    assert json.loads(out) == explained(study, 6).to_dict()


def test_a_journal_and_a_bare_file_are_storages_too(run, home, tuned):
    journal = f"journal:///{home / 'study.log'}"
    study = create_study(
        "mnist", "lenet", database="sqlite://", storage=open_storage(journal), study_name="j"
    )
    study.optimize(lambda trial: suggest_policy(trial)(1), n_trials=1)
    assert run("explain", "j", 0, "--storage", journal)[0] == 0
    assert run("explain", "digits", 0, "--storage", tuned.removeprefix("sqlite:///"))[0] == 0


@pytest.mark.parametrize(
    ("study", "trial", "says"),
    [
        ("digitz", 0, "unknown study 'digitz': did you mean digits? Known: digits, plain"),
        ("digits", 99, "trial 99: study 'digits' has no such trial; its trials: 0 to 7"),
        ("digits", 7, "trial 7 of study 'digits' has no LR policy"),
        ("plain", 0, "study 'plain' knows no LR task"),
        ("digits", "first", "'first' is not a valid integer"),
    ],
)
def test_bad_input_is_one_clear_line(run, tuned, study, trial, says):
    code, out, err = run("explain", study, trial, "--storage", tuned)
    assert (code, out) == (2, "")
    message = [line for line in err.splitlines() if not line.startswith(("Usage", "Try"))]
    assert says in " ".join(message)
    assert len([line for line in message if line.strip()]) == 1


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("sqlite:///nowhere.db", "nowhere.db: no such file"),
        ("mongodb://h/x", "expected a storage at"),
        ("postgresql://ann:secret@h/x", "a password on the command line"),
    ],
)
def test_a_storage_that_is_none_is_one_clear_line(run, home, storage, says):
    code, out, err = run("explain", "digits", 0, "--storage", storage)
    assert (code, out) == (2, "")
    assert says in err
    assert "secret" not in err
    assert not (home / "nowhere.db").exists()


def test_a_storage_is_asked_for(run):
    code, _, err = run("explain", "digits", 0)
    assert code == 2
    assert "--storage" in err

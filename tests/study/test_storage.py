"""Opening Optuna storages."""

import optuna
import pytest

from lrbench_hpo.errors import StudyError
from lrbench_hpo.study.storage import open_storage


def test_urls_are_opened_and_storages_left_alone(tmp_path):
    memory = optuna.storages.InMemoryStorage()
    assert open_storage(memory) is memory
    opened = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    assert isinstance(opened, optuna.storages.BaseStorage)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("study.db", "parse"),
        ("nosuch://user:secret@host/db", "nosuch"),
        ("postgresql://user:secret@localhost:1/db", "storage="),
    ],
)
def test_urls_that_cannot_be_opened_are_one_line_without_password(url, says, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.study.storage._FIRST_PAUSE", 0.001)
    with pytest.raises(StudyError, match=says) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_journal_file_keeps_a_study(tmp_path):
    url = f"journal:///{tmp_path / 'study.log'}"
    optuna.create_study(study_name="s", storage=open_storage(url)).add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    assert len(optuna.load_study(study_name="s", storage=open_storage(url)).trials) == 1
    with pytest.raises(StudyError, match="journal"):
        open_storage(f"journal:///{tmp_path}/none/study.log")


def test_a_file_that_is_no_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lrbench_hpo.study.storage._FIRST_PAUSE", 0.001)
    (tmp_path / "notes.db").write_text("nothing of the kind" * 100)
    with pytest.raises(StudyError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path / 'notes.db'}")

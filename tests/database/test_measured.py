"""The runs that come with the package, and their way into a database."""

from __future__ import annotations

import configparser
import hashlib
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

import lrbench_hpo
from lrbench_hpo.cli import main
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.outcomes import is_evidence
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.rows import Found
from lrbench_hpo.exchange.shipped import SOURCE, import_measured, measured_files
from lrbench_hpo.policies import FUNCTIONS
from lrbench_hpo.policies.coordinates import Scale, to_coordinates
from lrbench_hpo.records.run import Run

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "database.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def measured() -> dict[str, list[Run]]:
    """All runs by the name of their file."""
    found = {}
    with measured_files() as paths:
        for path in paths:
            with open_input(path) as file:
                rows = list(runs_in(file))
            assert all(isinstance(row, Found) for row in rows)
            found[path.name.removesuffix(".jsonl.gz")] = [row.run for row in rows]
    return found


def test_each_file_is_one_task_with_many_policies_of_many_functions(measured) -> None:
    assert len(measured) == 8
    assert len({runs[0].task.uid for runs in measured.values()}) == 8
    for runs in measured.values():
        assert len({run.task.uid for run in runs}) == 1
        assert len({run.max_iterations for run in runs}) == 1
        assert len({run.policy for run in runs if run.seed == 0}) >= 300
        assert len({run.policy.function for run in runs}) >= 13
        assert {run.seed for run in runs} >= {0, 1, 2}


def test_every_run_is_evidence_and_says_who_measured_it(measured) -> None:
    runs = [run for some in measured.values() for run in some]
    assert all(is_evidence(run.split, run.status, run.source) for run in runs)
    assert {run.source for run in runs} == {SOURCE}
    assert len({run.uid for run in runs}) == len(runs)
    assert all(run.policy.function in FUNCTIONS for run in runs)
    assert {run.status for run in runs} == {"complete", "diverged"}


def test_nearly_every_policy_is_a_point_of_the_scale_free_space(measured) -> None:
    def readable(run: Run) -> bool:
        try:
            to_coordinates(run.policy, Scale(run.max_iterations, 0.1))
        except lrbench_hpo.LRBenchError:
            return False
        return True

    for runs in measured.values():
        assert sum(map(readable, runs)) > 0.95 * len(runs)


def test_they_come_with_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["lrbench_hpo.database"].split(",")
    folder = ROOT / "lrbench_hpo" / "database"
    packed = {path for pattern in patterns for path in folder.glob(pattern.strip())}
    with measured_files() as paths:
        # Those that are installed, perhaps from a wheel, are those of the checkout.
        assert {path.name for path in paths} <= {path.name for path in packed}
        assert len(paths) == 8


@pytest.mark.slow
def test_they_are_stored_once_with_their_origins_and_can_be_taken_out_again(db: Database) -> None:
    told: list[int] = []
    reports = import_measured(db, progress=told.append)
    number = sum(report.new for report in reports)
    assert number > 8 * 300
    assert not any(report.rejected or report.own or report.known for report in reports)
    assert told == sorted(told)
    assert db.stats().by_source == {SOURCE: number, "lrbench-paper": 61}
    with measured_files() as paths:
        files = {
            f"lrbench_hpo/database/measured/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest()
            for p in paths
        }
    assert {origin.file: origin.checksum for origin, _ in db.origins()} == files

    again = import_measured(db)
    assert sum(report.new for report in again) == 0
    assert sum(report.known for report in again) == number
    assert len(db.origins()) == 8

    assert db.forget(source=SOURCE) == number
    assert (db.stats().runs, len(db.tasks()), db.origins()) == (61, 3, [])


def test_a_new_database_holds_none_of_them(db: Database) -> None:
    assert not db.has_source(SOURCE)


@pytest.mark.slow
def test_what_is_there_already_under_another_name_stays(tmp_path, measured) -> None:
    name, runs = next(iter(measured.items()))
    rows = [Found(run) for run in runs[:10]]
    with connect(tmp_path / "lr.db") as db:
        import_rows(db, rows, file="ann.jsonl", checksum=None, source="ann")
        report = next(r for r in import_measured(db) if name in r.file)
        assert (report.new, report.known) == (len(runs) - 10, 10)
        assert db.stats().by_source["ann"] == 10


def shell(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["lrbench-hpo", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return ended.value.code or 0, told.out + told.err


@pytest.mark.slow
def test_one_command_stores_them(tmp_path, monkeypatch, capsys, measured) -> None:
    number = sum(map(len, measured.values()))
    command = ("db", "import", "--measured", "--database", str(tmp_path / "lr.db"))
    status, text = shell(monkeypatch, capsys, *command, "--dry-run")
    assert (status, text.count("nothing stored")) == (0, 8)
    assert not (tmp_path / "lr.db").exists()
    status, text = shell(monkeypatch, capsys, *command)
    assert status == 0
    assert f"{number:,} new runs in all" in text
    status, text = shell(monkeypatch, capsys, *command)
    assert status == 0
    assert "0 new runs in all" in text
    out = ("db", "forget", "--source", SOURCE, "--yes", *command[3:])
    assert shell(monkeypatch, capsys, *out)[0] == 0
    with connect(tmp_path / "lr.db") as db:
        assert db.stats().runs == 61


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "or --measured"),
        (("--measured", "runs.jsonl"), "--measured goes with neither files"),
        (("--measured", "--source", "ann"), "nor --rejected"),
        (("--measured", "--rejected", "bad.jsonl"), "nor --rejected"),
    ],
)
def test_a_command_that_says_two_things_or_none_is_refused(
    monkeypatch, capsys, words, says
) -> None:
    status, text = shell(monkeypatch, capsys, "db", "import", *words)
    assert status == 2
    assert says in text


def test_the_guide_lists_them_as_they_are(measured) -> None:
    section = GUIDE.split("## Measured runs that come with the package\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) == len(measured)
    for row in rows:
        dataset, model, optimizer, budget, runs, best = (c.strip() for c in row.split("|")[2:-1])
        [some] = [s for n, s in measured.items() if f"`{n}`" in row]
        task = some[0].task
        assert (dataset, model) == (task.dataset, task.model)
        assert task.optimizer is not None
        assert optimizer.startswith(task.optimizer)
        assert int(budget) == some[0].max_iterations
        assert int(runs) == len(some)
        assert float(best.split()[0]) == round(100 * top1_of_the_best(some), 1)


def top1_of_the_best(runs: list[Run]) -> float:
    """Of the policies with most seeds, the highest mean Top-1, without the seed that chose them."""
    other = defaultdict(list)
    for run in runs:
        if run.seed:
            other[run.policy].append(run.metrics["top1"] or 0)
    most = max(map(len, other.values()))
    return max(statistics.mean(each) for each in other.values() if len(each) == most)

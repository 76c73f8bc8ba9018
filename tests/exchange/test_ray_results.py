"""Directories of Ray Tune experiments as runs: real ones, and malicious ones."""

import dataclasses
import json
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import textwrap

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.originals import Originals
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.exchange.tools import ray_results
from lrbench_hpo.exchange.translation import Translation
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.reports import report
from lrbench_hpo.records.run import CurvePoint, Run, Task
from lrbench_hpo.records.score import ScoreWeights

FOREIGN = Translation(
    "mnist",
    "lenet",
    {
        "lr": "k0",
        "opt/batch_size": "task.batch_size",
        "acc": "top1",
        "steps": "iteration",
        "loss": "train_loss",
    },
    max_iterations=500,
    percent=True,
)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def trial(root, name, config, results, **files):
    """A trial's folder as Ray writes it."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(config))
    (folder / "result.json").write_text("".join(json.dumps(r) + "\n" for r in results))
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def reports(n=5, **last):
    found = [
        {"acc": 90.0 + i, "steps": 100 * i, "loss": 1 / i, "training_iteration": i, "done": False}
        | {"timestamp": 1_795_356_505, "trial_id": "ab_1"}
        for i in range(1, n + 1)
    ]
    return [*found[:-1], found[-1] | last]


def state(root, *statuses, done=True):
    data = [
        [
            json.dumps({"trial_id": trial_id, "status": status, "stopping_criterion": {}}),
            json.dumps({"last_result": {"done": done}}),
        ]
        for trial_id, status in statuses
    ]
    text = json.dumps({"trial_data": data, "runner_data": {}, "stats": {}})
    (root / "experiment_state-2026-11-22_14-08-26.json").write_text(text)


CONFIG = {"lr": 0.1, "opt": {"batch_size": 32}, "seed": 3}


def test_reports_become_a_run(tmp_path):
    trial(tmp_path / "exp", "a", CONFIG, reports())
    (row,) = ray_results.read(tmp_path / "exp", FOREIGN)
    run = row.run
    assert run.policy == LRPolicy("FIX", k0=0.1)
    assert (run.task.dataset, run.task.batch_size, run.task.optimizer) == ("mnist", 32, None)
    assert (run.status, run.max_iterations, run.seed) == ("complete", 500, 3)
    assert run.metrics["top1"] == pytest.approx(0.95)
    assert run.metrics["iterations_to_best"] == 500
    assert [p.iteration for p in run.curve] == [100, 200, 300, 400, 500]
    assert run.notes == {"ray_experiment": "exp", "ray_trial": "ab_1"}
    assert run.created_at == "2026-11-22T14:08:25.000000Z"
    assert run.source == "ray"


@pytest.mark.parametrize(
    ("results", "files", "status"),
    [
        (reports(), {}, "complete"),
        (reports(3), {}, "pruned"),  # 300 of 500 iterations
        (reports(3), {"error_txt": "Traceback"}, "failed"),
        (reports(loss=float("nan")), {}, "diverged"),
        (reports(loss=None), {}, "diverged"),  # what Ray writes for NaN
        ([], {"error_txt": "Traceback"}, "failed"),
    ],
)
def test_how_a_trial_ended(tmp_path, results, files, status):
    trial(tmp_path, "a", CONFIG, results, **files)
    (row,) = ray_results.read(tmp_path, FOREIGN)
    assert row.run.status == status


def test_trials_that_are_not_over_are_left_out(tmp_path):
    for name, trial_id in (("a", "1"), ("b", "2"), ("c", "3")):
        trial(tmp_path, name, CONFIG, reports(trial_id=trial_id))
    state(tmp_path, ("1", "TERMINATED"), ("2", "RUNNING"), ("3", "ERROR"))
    left_out = []
    rows = list(ray_results.read(tmp_path, FOREIGN, left_out=left_out.append))
    assert [row.run.status for row in rows] == ["complete", "failed"]
    assert left_out == ["folder b"]


def test_epochs_are_counted_when_their_length_is_said(tmp_path):
    results = [{"acc": 0.5, "training_iteration": n, "trial_id": "x"} for n in (1, 2)]
    trial(tmp_path, "a", {"lr": 0.1}, results)
    said = {"mapping": {"lr": "k0", "acc": "top1"}, "max_iterations": 200}
    (row,) = ray_results.read(tmp_path, Translation("d", "m", iterations_per_epoch=100, **said))
    assert [p.iteration for p in row.run.curve] == [100, 200]
    (row,) = ray_results.read(tmp_path, Translation("d", "m", **said))
    assert row.run.curve == ()  # counted, in nobody knows what


def test_progress_csv_serves_where_json_is_missing(tmp_path):
    folder = trial(tmp_path, "a", CONFIG, reports())
    (before,) = ray_results.read(tmp_path, FOREIGN)
    rows = [list(reports()[0]), *([r[k] for k in reports()[0]] for r in reports())]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    (folder / "progress.csv").write_text(text + "\n")
    (folder / "result.json").unlink()
    (after,) = ray_results.read(tmp_path, FOREIGN)
    assert after.run == before.run


def own_run(**fields):
    metrics = {"top1": 0.9, "iterations_to_best": 40, "eval_loss": 0.3, "train_loss": 0.2}
    return Run(
        Task("digits", "mlp", num_classes=10),
        LRPolicy("TRI", k0=0.01, k1=0.1, l=10),
        40,
        seed=0,
        metrics=metrics,
        curve=(CurvePoint(20, 0.01, 0.3, 0.4, 0.8), CurvePoint(40, 0.01, 0.2, 0.3, 0.9)),
        **fields,
    )


def own_trial(root, run, *, finished=True):
    results = [report(run, ScoreWeights(), finished=finished) | {"trial_id": "own_1"}]
    return trial(root, "own", {"dataset": "digits", "lr_policy": run.policy.to_dict()}, results)


def test_trials_of_this_package_need_no_words(tmp_path):
    run = own_run()
    own_trial(tmp_path, run)
    (row,) = ray_results.read(tmp_path)
    found = row.run
    assert found.notes == {"ray_experiment": tmp_path.name, "ray_trial": "own_1", "run": run.uid}
    assert (found.task, found.policy, found.metrics, found.curve, found.created_at) == (
        run.task,
        run.policy,
        run.metrics,
        run.curve,
        run.created_at,
    )
    with connect(tmp_path / "lr.db") as db:
        assert not Originals(db).contains(found)
        # As RecordRuns would have stored it, with notes of its own.
        db.add(own_run(created_at=run.created_at, notes={"ray_trial": "own_1"}))
        assert Originals(db).contains(found)


def test_a_trial_that_was_cut_is_pruned(tmp_path):
    own_trial(tmp_path, own_run(), finished=False)
    (row,) = ray_results.read(tmp_path)
    assert row.run.status == "pruned"


def test_lr_policy_in_a_config_of_others_is_taken(tmp_path):
    policy = LRPolicy("COS", k0=0.1, k1=0.0, l=500)
    config = {"lr_policy": policy.to_dict(), "dataset": "mnist", "model": "lenet"}
    trial(tmp_path, "a", config | {"max_iterations": 500}, [{"top1": 0.5, "iteration": 500}])
    (row,) = ray_results.read(tmp_path)
    assert row.run.policy == policy
    assert row.run.max_iterations == 500


def test_importing_again_leaves_the_same_rows(tmp_path):
    own_trial(tmp_path / "exp", own_run())
    trial(tmp_path / "exp", "a", CONFIG, reports())
    with connect(tmp_path / "lr.db") as db:
        for new in (2, 0):
            rows = ray_results.read(tmp_path / "exp", FOREIGN)
            assert import_rows(db, rows, file="exp", checksum=None).new == new


@pytest.mark.parametrize(
    ("params", "result", "reason"),
    [
        ("{", None, "params.json: not JSON"),
        ("[1]", None, "params.json: expected a mapping"),
        ("[" * 100_000, None, "params.json: not JSON"),
        ('{"lr": 0.1, "a": ' + '{"a":' * 50_000 + "1" + "}" * 50_001, None, "not JSON"),
        (b"\xff\xfe", None, "params.json: not UTF-8"),
        ('{"rate": 1}', None, "its config says no LR policy: --map NAME=k0 maps a name of: rate"),
        ('{"lr": 1e400}', None, "k0=inf"),
        ('{"lr": "0.1; drop table"}', None, "k0='0.1; drop table'"),
        ('{"lr_policy": {"function": "COSMIC"}}', None, "unknown LR function"),
        (None, "{\n", "result.json line 1: not JSON"),
        (None, "[1]\n", "result.json line 1: expected a JSON object"),
        (None, "\0\n", "NUL"),
        (None, '{"acc": 101.5, "steps": 1}\n', "top1"),
        (None, '{"lrbench_run": "{"}\n', "Expecting"),
        (None, '{"lrbench_run": "[]"}\n', "run"),
        (None, '{"x": ' + "9" * 5000 + "}\n", "not JSON"),
        (None, "", "it reported nothing"),
    ],
)
def test_malformed_trials_are_rejected(tmp_path, params, result, reason):
    folder = trial(tmp_path, "bad", CONFIG, reports())
    trial(tmp_path, "good", CONFIG, reports())
    if params is not None:
        file = folder / "params.json"
        file.write_bytes(params) if isinstance(params, bytes) else file.write_text(params)
    if result is not None:
        (folder / "result.json").write_text(result)
    bad, good = ray_results.read(tmp_path, FOREIGN)
    assert isinstance(good, Found)
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert bad.place == "folder bad"


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path):
    folder = trial(tmp_path, "a", CONFIG, reports())
    with (folder / "result.json").open("a") as file:
        file.write('{"acc": 99.0, "ste')
    (row,) = ray_results.read(tmp_path, FOREIGN)
    assert row.run.metrics["top1"] == pytest.approx(0.95)


def test_pickles_are_never_read_and_links_never_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = trial(tmp_path / "outside", "secret", CONFIG, reports())
    root = tmp_path / "exp"
    folder = trial(root, "a", CONFIG, reports())
    for name in ("params.pkl", "error.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    for name in ("tuner.pkl", "searcher-state.pkl"):
        (root / name).write_bytes(pickle.dumps(Bomb()))
    value = {"_type": "CLOUDPICKLE_FALLBACK", "value": pickle.dumps(Bomb()).hex()}
    about = json.dumps({"trial_id": "ab_1", "status": "TERMINATED", "storage": value})
    (root / "experiment_state-x.json").write_text(json.dumps({"trial_data": [[about, "{}"]]}))
    (root / "linked").symlink_to(outside)
    linked = root / "b"
    linked.mkdir()
    for name in ("params.json", "result.json"):
        (linked / name).symlink_to(outside / name)
    rows = list(ray_results.read(root, FOREIGN))
    assert [row.place for row in rows] == ["folder a"]
    assert not (tmp_path / "exploded").exists()


def test_a_huge_file_is_not_read(tmp_path):
    folder = trial(tmp_path, "a", CONFIG, reports())
    for name, size in (("params.json", 17 * 2**20), ("result.json", 3 * 2**30)):
        with (folder / name).open("r+b") as file:
            file.truncate(size)  # of nothing: it takes no room
        (row,) = ray_results.read(tmp_path, FOREIGN)
        assert f"{name}: larger than" in row.reason
        trial(tmp_path / "again", "a", CONFIG, reports())
        (folder / name).write_text((tmp_path / "again" / "a" / name).read_text())
        subprocess.run(["rm", "-r", tmp_path / "again"], check=True)  # noqa: S607


@pytest.mark.parametrize("text", ["{", "[]", '{"trial_data": [["{", "{"]]}', '{"trial_data": 3}'])
def test_a_damaged_snapshot_is_no_obstacle(tmp_path, text):
    trial(tmp_path, "a", CONFIG, reports())
    (tmp_path / "experiment_state-x.json").write_text(text)
    (row,) = ray_results.read(tmp_path, FOREIGN)
    assert row.run.status == "complete"


def test_folders_without_trials_are_refused(tmp_path):
    for place, reason in ((tmp_path, "no trials in it"), (tmp_path / "no", "no such folder")):
        with pytest.raises(ExchangeError, match=reason):
            ray_results.read(place)


@pytest.mark.slow
def test_a_real_experiment(tmp_path):
    """Two trials of a trainable of others, one of which fails, and two of ours."""
    script = textwrap.dedent(
        f"""
        import ray
        from ray import tune
        import lrbench_hpo
        from lrbench_hpo import LRPolicy

        def train(config):
            for i in range(1, 6):
                if config["lr"] > 1 and i > 2:
                    raise RuntimeError("boom")
                tune.report({{"acc": 90 + i, "steps": i * 100, "loss": 1 / i}})

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        where = {{"storage_path": {str(tmp_path)!r}, "verbose": 0}}
        config = {{"lr": tune.grid_search([0.1, 2.0]), "opt": {{"batch_size": 32}}}}
        tune.run(train, config=config, name="theirs", raise_on_failed_trial=False, **where)
        policies = [LRPolicy("FIX", k0=0.05), LRPolicy("TRI", k0=0.01, k1=0.1, l=10)]
        grid = tune.grid_search([policy.to_dict() for policy in policies])
        config = {{"dataset": "digits", "model": "mlp", "max_iterations": 40, "lr_policy": grid}}
        tune.run(lrbench_hpo.train, config=config, name="ours", **where)
        """
    )
    # Nobody else's Ray is joined, and sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="lrbench") as folder:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        env = {**os.environ, **token, "RAY_TMPDIR": folder}
        env.pop("RAY_ADDRESS", None)
        subprocess.run([sys.executable, "-c", script], check=True, env=env, capture_output=True)
    theirs = [row.run for row in ray_results.read(tmp_path / "theirs", FOREIGN)]
    assert [run.status for run in theirs] == ["complete", "failed"]
    assert [run.policy.k0 for run in theirs] == [0.1, 2.0]
    ours = [row.run for row in ray_results.read(tmp_path / "ours")]
    assert [run.policy.function for run in ours] == ["FIX", "TRI"]
    assert all(run.status == "complete" and run.metrics["top1"] > 0.3 for run in ours)
    without_ray = "import sys; sys.modules['ray'] = None\n" + textwrap.dedent(
        f"""
        from lrbench_hpo.exchange.tools import ray_results
        print(len([row.run for row in ray_results.read({str(tmp_path / "ours")!r})]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", without_ray], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2"]


def test_a_table_that_is_none_is_rejected_alone(tmp_path):
    for name in ("a", "b", "c"):
        trial(tmp_path, name, CONFIG, reports())
    (tmp_path / "b" / "result.json").unlink()
    (tmp_path / "b" / "progress.csv").write_bytes(b"acc,steps\n1,2\r3,4\n")
    rows = list(ray_results.read(tmp_path, FOREIGN))
    assert [type(row) for row in rows] == [Found, Rejected, Found]
    assert "progress.csv: after line 1: not CSV: new-line character" in rows[1].reason


def test_shares_are_no_per_cent(tmp_path):
    said = dataclasses.replace(FOREIGN, percent=True)
    few = [report | {"acc": 0.9} for report in reports()]
    trial(tmp_path, "a", CONFIG, few)
    (row,) = ray_results.read(tmp_path, said)
    assert "is it a share? Leave --percent out" in row.reason
    trial(tmp_path, "b", CONFIG, reports())
    assert all(isinstance(row, Found) for row in ray_results.read(tmp_path, said))

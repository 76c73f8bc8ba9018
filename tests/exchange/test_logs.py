"""Training logs as runs: TensorBoard's, Lightning's, Keras's and plain ones."""

import csv
import os

import numpy as np
import pytest
import tensorboardX
from torch.utils.tensorboard import SummaryWriter

from lrbench_hpo.database import connect
from lrbench_hpo.errors import RecordError
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.rows import ExchangeError, Found, Rejected
from lrbench_hpo.exchange.tools import logs
from lrbench_hpo.exchange.tools.columns import lr_columns, metric_columns, step_column
from lrbench_hpo.exchange.translation import Translation
from lrbench_hpo.policies import LRPolicy

COS = LRPolicy("COS", k0=1e-5, k1=0.1, l=1000)
DROPS = LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[500, 800])


def translation(**said):
    return Translation("cifar10", "resnet20", **said)


def tensorboard(folder, policy=COS, n=1000, writer=SummaryWriter):
    with writer(str(folder)) as log:
        for t in range(n):
            log.add_scalar("train/lr", policy(t), t)
            log.add_scalar("train/loss", 2 / (t + 1), t)
            if t % 100 == 99:
                log.add_scalar("val/accuracy", 0.5 + t / 3000, t)
                log.add_scalar("val/loss", 1.0, t)


def table(file, header, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as text:
        csv.writer(text).writerows([header.split(","), *rows])


def lightning(folder, policy=DROPS):
    rows = []
    for t in range(49, 1000, 50):
        rows += [("", policy(t), t, "", "", ""), (t // 100, "", t, 1 / t, "", "")]
        if t % 100 == 99:
            rows.append((t // 100, "", t, "", 0.4, 0.8 + t / 10_000))
    table(folder / "metrics.csv", "epoch,lr-SGD,step,train_loss,val_loss,val_acc", rows)


def only(folder, *given, **said):
    (row,) = logs.read(folder, translation(**said), **(given[0] if given else {}))
    return row


@pytest.mark.parametrize("writer", [SummaryWriter, tensorboardX.SummaryWriter])
def test_tensorboard(tmp_path, writer):
    tensorboard(tmp_path / "runs" / "a", writer=writer)
    run = only(tmp_path).run
    assert run.policy == COS
    assert run.max_iterations == 1000
    assert run.metrics["top1"] == pytest.approx(0.833)
    assert run.metrics["iterations_to_best"] == 1000
    assert run.metrics["loss_difference"] == pytest.approx(0.998)
    assert [p.iteration for p in run.curve] == list(range(100, 1001, 100))
    assert run.curve[-1].lr == pytest.approx(COS(999), rel=1e-5)
    assert run.notes["log"] == "runs/a"
    assert run.notes["fit_error"] < 1e-6
    assert run.notes["fit_points"] == 1000
    assert run.source == "logs"
    assert run.created_at > "2020"


def test_a_run_that_was_resumed_is_one_run(tmp_path):
    tensorboard(tmp_path, n=600)
    with SummaryWriter(str(tmp_path), filename_suffix=".later") as log:
        for t in range(500, 1000):
            log.add_scalar("train/lr", COS(t), t)
    assert only(tmp_path).run.policy == COS


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    tensorboard(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert only(tmp_path).run.policy == COS


def test_lightning(tmp_path):
    lightning(tmp_path / "version_0")
    run = only(tmp_path).run
    assert run.policy == DROPS
    assert run.max_iterations == 1000
    assert run.metrics["top1"] == pytest.approx(0.8999)
    assert run.metrics["iterations_to_best"] == 1000
    assert run.created_at == "1970-01-01T00:00:00.000000Z"
    assert only(tmp_path, created_at="2026-03-01T12:00Z").run.created_at.startswith("2026-03")


@pytest.mark.parametrize("first", [0, 1])
def test_keras(tmp_path, first):
    header = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss"
    rows = [(first + e, 0.9, np.float32(0.1 * 0.9**e), 1, 60 + e, 2) for e in range(20)]
    table(tmp_path / "log.csv", header, rows)
    assert only(tmp_path, percent=True).reason == "it counts epochs: give --iterations-per-epoch"
    run = only(tmp_path, percent=True, iterations_per_epoch=100).run
    assert run.policy.function == "EXP"
    assert run.policy.k0 == 0.1
    assert run.policy.gamma**100 == pytest.approx(0.9)
    assert run.max_iterations == 2000
    assert run.metrics["top1"] == 0.79  # of val_accuracy, not of accuracy
    assert [p.iteration for p in run.curve] == list(range(100, 2001, 100))


def test_a_plain_table_and_one_file_by_name(tmp_path):
    rows = [(t, COS(t), 1 / (t + 1), 0.001 * t) for t in range(0, 1000, 10)]
    table(tmp_path / "a.csv", "step,lr,loss,acc", rows)
    table(tmp_path / "b.csv", "step,lr,loss,acc", rows)
    run = only(tmp_path / "a.csv", max_iterations=1000).run
    assert run.policy == COS
    assert run.metrics["top1"] == pytest.approx(0.99)
    row = only(tmp_path)
    assert "several logs with learning rates (a.csv, b.csv)" in row.reason


def test_names_can_be_said(tmp_path):
    rows = [(t, DROPS(t), 0.5, 88.0, 0.1) for t in range(0, 1000, 10)]
    table(tmp_path / "a.csv", "batches,rate,other,score,lr", rows)
    mapping = {"batches": "iteration", "rate": "lr", "score": "top1"}
    run = only(tmp_path, mapping=mapping, percent=True).run
    assert (run.policy, run.metrics["top1"]) == (DROPS, 0.88)
    run = only(tmp_path, {"lr_column": "rate"}, mapping={"batches": "iteration"}).run
    assert run.policy == DROPS
    assert "top1" not in run.metrics


def test_steps_of_tensorboard_are_epochs_when_said(tmp_path):
    tensorboard(tmp_path, n=100, policy=LRPolicy("STEP", k0=0.1, gamma=0.1, l=30))
    run = only(tmp_path, mapping={"step": "epoch"}, iterations_per_epoch=391).run
    assert run.policy == LRPolicy("STEP", k0=0.1, gamma=0.1, l=30 * 391)
    assert run.max_iterations == 39_100


def test_what_no_function_made_is_rejected_with_the_error(tmp_path):
    rng = np.random.default_rng(0)
    table(tmp_path / "a.csv", "step,lr", [(t, rng.uniform(0.001, 0.1)) for t in range(100)])
    row = only(tmp_path)
    assert isinstance(row, Rejected)
    assert row.place == f"folder {tmp_path.name}"
    assert "no LR function can be told from 'lr'" in row.reason
    assert "decades, more than 0.02" in row.reason


def test_importing_again_leaves_the_same_rows(tmp_path):
    tensorboard(tmp_path / "logs" / "a")
    lightning(tmp_path / "logs" / "b")
    lightning(tmp_path / "logs" / "c")
    with connect(tmp_path / "lr.db") as db:
        for new in (3, 0):
            rows = logs.read(tmp_path / "logs", translation())
            assert import_rows(db, rows, file="logs", checksum=None).new == new
        stored = db.find(source="logs")
        assert {run.notes["log"] for run in stored} == {"a", "b", "c"}
        for file in (tmp_path / "logs").rglob("*.csv"):
            os.utime(file, (1, 1))  # as after a copy
        rows = logs.read(tmp_path / "logs", translation())
        assert import_rows(db, rows, file="logs", checksum=None).new == 0


@pytest.mark.parametrize(
    ("header", "rows", "said", "reason"),
    [
        ("step,lr,acc", [(t, 0.1, 93.0) for t in range(5)], {}, "looks like per cent"),
        ("step,lr,acc", [(t, 0.1, 0.9) for t in range(5)], {"percent": True}, "is it a share?"),
        ("step,lr", [(0, 0.1), (1, 0.1)], {}, "expected 3 to 1000000 samples"),
        ("step,lr", [(t, -0.1) for t in range(5)], {}, "LR=-0.1"),
        ("step,lr", [(t, "nan") for t in range(5)], {}, "LR=nan"),
        ("step,lr", [(5 - t, 0.1) for t in range(5)], {}, "'step' goes back"),
        ("step,lr", [(t, 0.1) for t in range(-5, 0)], {}, "iteration=-5.0"),
        ("step,lr", [("nan", 0.1)] * 5, {}, "NaN"),
        ("step,lr", [(1e300, 0.1), (2e300, 0.1), (3e300, 0.1)], {}, "iteration"),
        ("lr,acc", [(0.1, 0.9)] * 5, {}, "no column step, iteration or epoch"),
        ("step,lr-a,lr-b", [(t, 0.1, 0.2) for t in range(5)], {}, "several learning rates"),
        ("step,lr,lr", [(t, 0.1, 0.2) for t in range(5)], {}, "each once"),
        (
            "step,lr",
            [(t, 0.1) for t in range(5)],
            {"max_iterations": 2, "mapping": {"x": "lr"}},
            "no 'x' in it",
        ),
    ],
)
def test_logs_that_cannot_be_told_are_rejected(tmp_path, header, rows, said, reason):
    table(tmp_path / "a.csv", header, rows)
    row = only(tmp_path, **said)
    assert isinstance(row, Rejected)
    assert reason in row.reason
    assert "\n" not in row.reason


def test_losses_that_blew_up_are_diverged(tmp_path):
    rows = [(t, 0.1, "nan" if t > 3 else 1.0) for t in range(9)]
    table(tmp_path / "a.csv", "step,lr,loss", rows)
    run = only(tmp_path).run
    assert run.status == "diverged"
    assert run.policy == LRPolicy("FIX", k0=0.1)


def test_learning_rates_that_are_equal_are_one(tmp_path):
    table(tmp_path / "a.csv", "step,lr-a/pg1,lr-a/pg2", [(t, COS(t), COS(t)) for t in range(99)])
    assert isinstance(only(tmp_path, max_iterations=1000), Found)


def test_a_long_curve_is_thinned_and_keeps_its_best(tmp_path):
    rows = [(t, 0.1, 0.9 if t == 777 else 0.5) for t in range(5_000)]
    table(tmp_path / "a.csv", "step,lr,val_acc", rows)
    run = only(tmp_path).run
    assert len(run.curve) <= logs.MAX_CURVE
    assert run.metrics["iterations_to_best"] == 778
    assert run.curve[-1].iteration == 5_000


def test_files_that_are_no_logs_do_nothing(tmp_path):
    good = tmp_path / "logs" / "good"
    lightning(good)
    bad = tmp_path / "logs" / "bad"
    bad.mkdir()
    (bad / "events.out.tfevents.1.x").write_bytes(os.urandom(5_000))
    (bad / "params.pkl").write_bytes(b"cos\nsystem\n(S'touch exploded'\ntR.")
    worse = tmp_path / "logs" / "worse"
    worse.mkdir()
    with (worse / "events.out.tfevents.1.y").open("wb") as file:
        file.truncate(3 * 2**30)
    worst = tmp_path / "logs" / "worst"
    worst.mkdir()
    (worst / "metrics.csv").write_bytes(b"step,lr\n" + b"\xff\xfe\n" * 10)
    (tmp_path / "logs" / "linked").symlink_to(good)
    (tmp_path / "logs" / "loop").symlink_to(tmp_path / "logs")
    (bad / "metrics.csv").symlink_to(good / "metrics.csv")
    os.mkfifo(tmp_path / "logs" / "pipe.csv")
    rows = list(logs.read(tmp_path / "logs", translation()))
    reasons = {row.place: getattr(row, "reason", "good") for row in rows}
    assert set(reasons) == {"folder bad", "folder good", "folder worse", "folder worst"}
    assert reasons["folder good"] == "good"
    assert "no learning rate in it" in reasons["folder bad"]
    assert "more than 2 GiB" in reasons["folder worse"]
    assert "not UTF-8" in reasons["folder worst"]


def test_folders_without_logs_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for place, reason in (
        (tmp_path, "neither event files nor CSVs"),
        (tmp_path / "no", "no such folder"),
        (tmp_path / "a.txt", "this is a file"),
    ):
        with pytest.raises(ExchangeError, match=reason):
            logs.read(place, translation())


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["loss", "acc"], "validation", {"top1": "acc", "train_loss": "loss"}),
        (
            ["train/acc", "val/acc", "test/acc", "val/loss"],
            "validation",
            {"top1": "val/acc", "eval_loss": "val/loss"},
        ),
        (["train/acc", "val/acc", "test/acc"], "test", {"top1": "test/acc"}),
        (["train/acc", "val/acc"], "train", {"top1": "train/acc"}),
        (["accuracy", "val_loss"], "validation", {"eval_loss": "val_loss"}),
        (["val_acc_step", "val_acc_epoch"], "validation", {"top1": "val_acc_epoch"}),
    ],
)
def test_columns_are_told_by_their_names(names, split, found):
    assert metric_columns(names, split) == found


def test_learning_rates_and_steps_are_told_by_their_names():
    names = ["lr", "lr-AdamW/pg1", "train/learning_rate", "Learning Rate", "opt.lr", "color", "klr"]
    assert lr_columns(names) == names[:5]
    assert step_column(["Epoch", "lr"]) == ("Epoch", True)
    assert step_column(["epoch", "global_step"]) == ("global_step", False)


@pytest.mark.parametrize(
    ("last", "budget", "status"),
    [
        (290, 10_000, "pruned"),
        (990, 1_000, "complete"),
        (960, 1_000, "complete"),
        (930, 1_000, "pruned"),
    ],
)
def test_a_log_that_ends_before_the_budget_is_of_a_pruned_run(tmp_path, last, budget, status):
    rows = [(t, 0.1, t / 1e6) for t in range(0, last + 1, 10)]
    table(tmp_path / "a.csv", "step,lr,val_acc", rows)
    run = only(tmp_path, max_iterations=budget).run
    assert (run.status, run.max_iterations) == (status, budget)
    assert ("final_top1" in run.metrics) == (status == "complete")


def test_one_logging_interval_may_be_missing(tmp_path):
    rows = [(t, 0.1) for t in range(0, 901, 100)]
    table(tmp_path / "a.csv", "iteration,lr", rows)
    assert only(tmp_path, max_iterations=1000).run.status == "complete"
    assert only(tmp_path, max_iterations=1001).run.status == "pruned"


def test_too_few_samples_of_a_curve_are_rejected(tmp_path):
    rows = [(t, COS(t)) for t in (0, 500, 999)]
    table(tmp_path / "a.csv", "step,lr", rows)
    row = only(tmp_path, max_iterations=1000)
    assert row.reason.startswith("no LR function can be told from 'lr': 3 samples are too few")


def test_epochs_too_coarse_for_their_policy_are_rejected(tmp_path):
    for folder, epochs in (("a", 10), ("b", 50)):
        policy = LRPolicy("COS", k0=1e-4, k1=0.1, l=100 * epochs)
        rows = [(t, policy(t // 100 * 100)) for t in range(100 * epochs)]
        table(tmp_path / folder / "a.csv", "step,lr", rows)
    coarse, fine = logs.read(tmp_path, translation())
    assert "each LR is held for 100 iterations" in coarse.reason
    assert fine.run.notes["fit_held"] == 100
    assert 0.01 < fine.run.notes["fit_error"] < fine.run.notes["fit_worst"]  # over all points


@pytest.mark.parametrize("junk", [b"a,b\rc,d\re,f\n", b"\xff\xfe\n"])
def test_a_table_that_is_none_is_rejected_alone(tmp_path, junk):
    lightning(tmp_path / "a")
    lightning(tmp_path / "c")
    (tmp_path / "a" / "junk.csv").write_bytes(junk)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "junk.csv").write_bytes(junk)
    rows = list(logs.read(tmp_path, translation()))
    assert [(row.place, type(row)) for row in rows] == [
        ("folder a", Rejected),
        ("folder a", Found),
        ("folder b", Rejected),
        ("folder c", Found),
    ]
    assert rows[0].reason.startswith("junk.csv: ")
    assert "\n" not in rows[0].reason


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_iterations_per_epoch_have_their_own_rule(value):
    with pytest.raises(RecordError) as caught:
        translation(iterations_per_epoch=value)
    assert str(caught.value).startswith("iterations_per_epoch=")
    assert "learning rate" not in str(caught.value)


def test_a_cosine_of_four_decimals_is_told(tmp_path):
    cosine = LRPolicy("COS", k0=0.1, k1=0.0, l=1000)
    rows = [(t, f"{cosine(t):.4f}", 0.5 + t / 4000) for t in range(0, 1000, 10)]
    table(tmp_path / "log.csv", "step,lr,val_acc", rows)
    assert only(tmp_path, max_iterations=1000).run.policy == cosine

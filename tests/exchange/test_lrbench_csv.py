"""LRBench-style CSV as runs: its units, its lists, and rows that say too little."""

import time

import pytest

from lrbench_hpo.database import connect
from lrbench_hpo.exchange import shares
from lrbench_hpo.exchange.files import open_input
from lrbench_hpo.exchange.formats import lrbench_csv
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.rows import ExchangeError, Rejected
from lrbench_hpo.policies import LRPolicy

PAPER = (
    "dataset,model,framework,function,k0,k1,gamma,p,l,n_iter_at_best,max_iter,top1,top1_std,top5,"
    "AC,CD,CDAC,LD,source,table,table_as_cited,n_runs,flag,note"
)
REPO = (
    "dataset,model,framework,optimizer,batch_size,function,k0,k1,gamma,p,l,epochs,top1,top1_std,"
    "top5,loss,mean_best_epoch,n_runs,source,note"
)


def rows(tmp_path, *lines):
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(lines) + "\n")
    with open_input(file) as opened:
        return list(runs_in(opened))


def test_rows_like_the_papers(tmp_path):
    drops, wave = rows(
        tmp_path,
        PAPER,
        "MNIST,LeNet,Caffe,NSTEP,0.01,,0.9,,5000;7000;8000,10000,10000,99.12,0.01,99.99,0.9946,"
        '0.0362,0.0023,0.0209,me,II,,5,,"a note, with a comma"',
        "CIFAR-10,CNN3,Caffe,SINEXP,0.00005,0.006,0.99994,,2000,52000,70000,82.16,0.08,,,,,,,,,,,",
    )
    run = drops.run
    assert run.policy == LRPolicy("NSTEP", k0=0.01, gamma=0.9, l=[5000, 7000, 8000])
    assert run.max_iterations == 10_000
    assert run.split == "test"
    assert run.metrics == {
        "top1": 0.9912,
        "top1_std": 0.0001,
        "top5": 0.9999,
        "ac": 0.9946,
        "cd": 0.0362,
        "cdac": 0.0023,
        "loss_difference": 0.0209,
        "iterations_to_best": 10_000,
    }
    assert run.source == "lrbench-csv"
    assert run.task.framework == "Caffe"
    assert run.notes == {"table": "II", "n_runs": 5, "note": "a note, with a comma", "from": "me"}
    assert wave.run.policy == LRPolicy("SINEXP", k0=5e-5, k1=0.006, gamma=0.99994, l=2000)
    assert wave.run.metrics["top1"] == 0.8216


def test_rows_like_the_repositorys(tmp_path):
    (row,) = rows(
        tmp_path,
        REPO,
        "CIFAR-10,tiny,PyTorch,SGD momentum 0.9 wd 1e-4,128,FIX,0.01,,,,,2,44.5,,90,0.5,1,1,me,x",
    )
    task = row.run.task
    assert (task.optimizer, task.momentum, task.weight_decay) == ("sgd", 0.9, 1e-4)
    assert task.batch_size == 128
    assert row.run.max_iterations == 2 * 391
    assert row.run.metrics["iterations_to_best"] == 391
    assert row.run.metrics["eval_loss"] == 0.5


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "CIFAR-10,m,K,Adam,32,ReduceLROnPlateau,0.001,,0.1,,patience=5,30,72,,,,,,,",
            "unknown LR function",
        ),
        ("CIFAR-10,m,K,Adam,32,TRI2,0.001,0.01,,,,30,72,,,,,,,", "l=None: TRI2 needs l"),
        ("CIFAR-10,m,K,Adam,32,STEP,0.001,,0.1,,10;20,30,72,,,,,,,", "only NSTEP takes several"),
        (
            "CIFAR-10,m,K,Adam,32,TRI,0.001,0.1..0.2,,,9,30,72,,,,,,,",
            "k1='0.1..0.2': expected a number",
        ),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,,72,,,,,,,", "max_iter is missing"),
        ("CIFAR-10,m,K,Adam,,FIX,0.001,,,,,30,72,,,,,,,", "epochs cannot be told in iterations"),
        ("mine,m,K,Adam,32,FIX,0.001,,,,,30,72,,,,,,,", "epochs cannot be told in iterations"),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,172,,,,,,,", "run.metrics.top1=1.72"),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,nan,,,,,,,", "top1='nan': expected a number"),
        ("CIFAR-10,m,K,Adam,32,FIX,1e999,,,,,30,72,,,,,,,", "k0"),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,,,,,,,,", "top1 is missing"),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,72,,,1e999,,,,", "loss='1e999': expected a finite"),
        ("CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,1e999,,,,,,,", "top1='1e999': expected a finite"),
        (
            "CIFAR-10,m,K,Adam,1e999,FIX,0.001,,,,,30,72,,,,,,,",
            "batch_size='1e999': expected a finite",
        ),
        ("CIFAR-10,,K,Adam,32,FIX,0.001,,,,,30,72,,,,,,,", "model is missing"),
        ("CIFAR-10,m,K,Adam,x,FIX,0.001,,,,,30,72,,,,,,,", "batch_size='x'"),
        ("CIFAR-10,m,K", "expected 20 cells, got 3"),
        ('CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,72,,,,,,,"open', "a quoted cell does not end"),
        ("CIFAR-10,m,K,Adam,32,FIX," + "9" * 5000 + ",,,,,30,72,,,,,,,", "expected a number"),
    ],
)
def test_rows_that_say_too_little_are_rejected(tmp_path, line, reason):
    bad, good = rows(tmp_path, REPO, line, "CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,72,,,,,,,")
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert (bad.place, bad.text) == ("line 2", f"{REPO}\n{line}"[:10_000])
    assert good.run.metrics == {"top1": 0.72}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("dataset,model,function,k0,top1,surprise", "unknown column 'surprise'"),
        ("dataset,model,function,k0,top1,k0", "the column 'k0' is there twice"),
    ],
)
def test_other_tables_are_refused(tmp_path, header, reason):
    with pytest.raises(ExchangeError, match=reason):
        rows(tmp_path, header, "a,b,FIX,0.1,90,1")


def test_importing_again_leaves_the_same_rows(tmp_path):
    line = "CIFAR-10,m,K,Adam,32,FIX,0.001,,,,,30,72,,,,,,,"
    with connect(tmp_path / "lr.db") as db:
        for new in (2, 0):  # two equal rows are two runs
            found = rows(tmp_path, REPO, line, line)
            assert import_rows(db, found, file="rows.csv", checksum=None).new == new
        assert db.stats().by_source["lrbench-csv"] == 2


def test_rows_of_the_paper_are_known_already(tmp_path):
    line = "CIFAR-10,ResNet-32,Caffe+LRBench,FIX,0.1,,,,,61000,64000,86.08,,,,,,,x,III(a),IIa,,,"
    changed = line.replace("86.08", "86.09")
    with connect(tmp_path / "lr.db") as db:
        report = import_rows(db, rows(tmp_path, PAPER, line, changed), file="f", checksum=None)
        assert (report.new, report.known) == (1, 1)
        assert db.stats().by_source == {"lrbench-paper": 61, "lrbench-csv": 1}


def test_an_optimizer_of_blanks_takes_no_time():
    began = time.process_time()
    assert lrbench_csv._optimizer({"optimizer": "wd" + " " * 20_000}) == {"optimizer": "wd"}
    assert time.process_time() - began < 0.5


def test_shares_are_no_per_cent(tmp_path):
    line = "CIFAR-10,m,K,Adam,32,FIX,{},,,,,30,{},,,,,,,"
    small = [line.format(k0, top1) for k0, top1 in ((0.1, 0.93), (0.2, 1), (0.3, 0.5))]
    refused = rows(tmp_path, REPO, *small)
    assert [row.place for row in refused] == ["line 2", "line 3", "line 4"]
    assert {row.reason for row in refused} == {
        "top1 is at most 1 here and in all other rows: is it a share? Such tables hold per cent: "
        "93, not 0.93"
    }
    assert [row.text for row in refused] == small
    found = rows(tmp_path, REPO, *small, line.format(0.4, 90))
    assert [row.run.metrics["top1"] for row in found] == [0.0093, 0.01, 0.005, 0.9]
    (none,) = rows(tmp_path, REPO, line.format(0.1, 0))  # 0 is 0 in either
    assert none.run.metrics["top1"] == 0


def test_many_small_numbers_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "_MAX_WAITING", 2)
    line = "CIFAR-10,m,K,Adam,32,FIX,{},,,,,30,{},,,,,,,"
    lines = [line.format(k0, top1) for k0, top1 in ((0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.4, 70))]
    assert [isinstance(row, Rejected) for row in rows(tmp_path, REPO, *lines)] == [
        True,
        True,
        False,
        False,
    ]

from __future__ import annotations

import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrbench_hpo.checks import canonical_name
from lrbench_hpo.errors import LRBenchError, PolicyError, RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.run import CurvePoint, Run, Task, utc_timestamp

TASK = Task("CIFAR-10", "ResNet-32", num_classes=10, image_shape=(3, 32, 32), momentum=0.9)
POLICY = LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000)


def make_run(**changes) -> Run:
    fields = {
        "task": TASK,
        "policy": POLICY,
        "max_iterations": 64_000,
        "seed": 3,
        "metrics": {"top1": 0.9281, "iterations_to_best": 64_000, "loss_difference": -0.3},
        "curve": (CurvePoint(1000, 0.1, 0.5, 0.6, 0.8), CurvePoint(2000, top1=0.9)),
        "cost": {"seconds": 12.5, "gpu_percent": None},
        "environment": {"device": "cpu", "versions": {"torch": "2.9"}, "threads": 2},
        "notes": {"flags": ["a", "b"], "seen": True},
        "created_at": "2026-01-02T03:04:05Z",
    }
    return Run(**{**fields, **changes})


def run_dict(**changes) -> dict:
    return {**make_run().to_dict(), **changes}


def refused(call, *parts: str) -> None:
    with pytest.raises(RecordError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for part in parts:
        assert part in message


def test_names_are_compared_without_case_dashes_and_underscores() -> None:
    assert canonical_name("CIFAR-10") == canonical_name("cifar_10") == "cifar10"
    assert Task("ResNet-32", "x").uid == Task("resnet32", "X").uid
    assert Task("mnist", "lenet").uid != Task("mnist", "lenet", batch_size=64).uid


@pytest.mark.parametrize("value", [None, 5, ["mnist"], b"mnist"])
def test_a_name_that_is_no_text_is_refused_in_one_line(value: object) -> None:
    refused(lambda: canonical_name(value, "dataset"), f"dataset={value!r}: expected a name")
    refused(lambda: canonical_name(value), f"name={value!r}: expected a name")


def test_an_optimizer_is_kept_in_lower_case() -> None:
    task = Task("a", "b", optimizer="Adam", momentum=0)
    assert (task.optimizer, task.momentum) == ("adam", 0.0)
    assert task.uid == Task("a", "b", optimizer="adam", momentum=0.0).uid


def test_a_run_goes_to_json_and_back() -> None:
    run = make_run()
    again = Run.from_dict(json.loads(json.dumps(run.to_dict(), allow_nan=False)))
    assert again == run
    assert hash(again) == hash(run)
    assert again.uid == run.uid


def test_absent_is_null() -> None:
    data = {"task": {"dataset": "a", "model": "b"}, "policy": POLICY.to_dict()}
    data |= {"max_iterations": 10, "seed": None, "metrics": None, "curve": None, "notes": None}
    run = Run.from_dict(data)
    assert (run.seed, run.metrics, run.curve, run.split) == (None, {}, (), "validation")
    assert run.status == "complete"


def test_a_run_is_read_only_and_owns_its_values() -> None:
    metrics, notes = {"top1": 0.5}, {"inner": {"list": [1]}}
    run = make_run(metrics=metrics, notes=notes)
    metrics["top1"] = 0.9
    notes["inner"]["list"].append(2)
    assert run.metrics["top1"] == 0.5
    assert run.to_dict()["notes"] == {"inner": {"list": [1]}}
    with pytest.raises(TypeError):
        run.metrics["top1"] = 0.9  # type: ignore[index]
    with pytest.raises(TypeError):
        run.notes["inner"]["x"] = 1
    with pytest.raises(AttributeError):
        run.seed = 4  # type: ignore[misc]


def test_a_run_is_pickled_and_copied() -> None:
    run = make_run()
    assert pickle.loads(pickle.dumps(run)) == run  # noqa: S301
    assert copy.deepcopy(run) == run


def test_the_same_run_has_the_same_uid() -> None:
    uid = make_run().uid
    assert make_run(task=Task.from_dict({**TASK.to_dict(), "dataset": "cifar10"})).uid == uid
    assert make_run(created_at="2026-01-02T04:04:05+01:00").uid == uid
    assert make_run(curve=()).uid == uid  # a run read without its curve is the same run
    assert make_run(metrics={**make_run().metrics, "iterations_to_best": 64_000.0}).uid == uid
    for change in ({"seed": 4}, {"split": "test"}, {"notes": {}}):
        assert make_run(**change).uid != uid
    # Whoever files it under another name: it is one training.
    assert make_run(source="other").uid == uid


def test_not_a_number_becomes_none() -> None:
    run = make_run(
        status="diverged",
        metrics={"top1": math.nan, "eval_loss": math.inf, "train_loss": np.float32("nan")},
        curve=(CurvePoint(1, lr=math.inf, top1=math.nan),),
        notes={"x": [math.nan]},
    )
    assert dict(run.metrics) == {"top1": None, "eval_loss": None, "train_loss": None}
    assert run.curve[0].to_dict() == CurvePoint(1).to_dict()
    assert run.to_dict()["notes"] == {"x": [None]}


def test_numpy_numbers_become_plain_ones() -> None:
    metrics = {"top1": np.float32(0.5), "iterations_to_best": np.int64(7)}
    run = make_run(max_iterations=np.int64(100), metrics=metrics, curve=())
    assert [type(value) for value in run.metrics.values()] == [float, int]
    assert type(run.max_iterations) is int


def test_time_is_utc_of_fixed_width() -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert utc_timestamp(east) == "2025-12-31T23:00:00.000000Z"
    assert len(make_run(created_at=datetime.now(UTC).isoformat()).created_at) == 27
    for bad in ("yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+10:00", 5):
        refused(lambda bad=bad: utc_timestamp(bad), "time=")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"datset": "x"}, "did you mean dataset"),
        ({"dataset": None}, "task.dataset is missing"),
        ({"dataset": "  "}, "expected a name"),
        ({"dataset": "-_"}, "expected letters or digits"),
        ({"dataset": 5}, "task.dataset=5: expected text"),
        ({"model": "a\nb"}, "control character"),
        ({"model": "a\x1b[31m"}, "control character"),
        ({"model": "\ud800"}, "control character"),
        ({"model": "x" * 201}, "at most 200"),
        ({"num_classes": 0}, "task.num_classes=0: expected a whole number of at least 1"),
        ({"num_train": -5}, "at least 1"),
        ({"num_train": 2.5}, "whole number"),
        ({"num_train": 10**5000}, "bits"),
        ({"batch_size": True}, "whole number"),
        ({"image_shape": [3, 32]}, "channels, height, width"),
        ({"image_shape": [3, 32, -1]}, "image_shape[2]=-1"),
        ({"momentum": "0.9"}, "expected a number"),
        ({"momentum": 1}, "task.momentum=1: expected a momentum in [0, 1)"),
        ({"momentum": 1.5}, "expected a momentum in [0, 1)"),
        ({"momentum": -0.1}, "at least 0"),
        ({"optimizer": 5}, "task.optimizer=5: expected text"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"weight_decay": math.nan}, "finite"),
        ({"reference_lr": 0.0}, "above 0"),
    ],
)
def test_a_bad_task_is_refused_in_one_line(changes: dict, part: str) -> None:
    refused(lambda: Task.from_dict({**TASK.to_dict(), **changes}), part)


def deep(levels: int) -> dict:
    data: dict = {}
    for _ in range(levels):
        data = {"x": data}
    return data


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sead": 1}, "did you mean seed"),
        ({"task": None}, "run.task is missing"),
        ({"task": [1]}, "expected a mapping"),
        ({"policy": "FIX"}, "run.policy='FIX': expected a mapping"),
        ({"policy": deep(100_000)}, "at most 40 levels"),
        ({"max_iterations": 0}, "at least 1"),
        ({"max_iterations": "10"}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"status": "done"}, "expected one of complete, pruned, diverged, failed"),
        ({"split": "dev"}, "expected one of train, validation, test"),
        ({"metrics": {"top1": 93}}, "top1=93: shares in [0, 1], not per cent"),
        ({"metrics": {"top1_std": -0.1}}, "shares in [0, 1]"),
        ({"metrics": {"top1": True}}, "expected a number"),
        ({"metrics": {"loss": "0.1"}}, "expected a number"),
        ({"metrics": {"eval_loss": 10**400}}, "at most"),
        ({"metrics": {"iterations_to_best": 64_001}}, "more than max_iterations=64000"),
        ({"metrics": {"iterations_to_best": -1}}, "at least 0"),
        ({"metrics": {"classes_left_out": -1}}, "at least 0"),
        ({"metrics": {3: 1.0}}, "expected text"),
        ({"metrics": {str(i): i for i in range(1001)}}, "at most 1000 values"),
        ({"metrics": [("top1", 0.5)]}, "expected a mapping"),
        ({"curve": {"iteration": 1}}, "list of curve points"),
        ({"curve": [{"iteration": 5}, {"iteration": 5}]}, "increase"),
        ({"curve": [{"iteration": 64_001}]}, "up to max_iterations=64000"),
        ({"curve": [{"iteration": -1}]}, "at least 0"),
        ({"curve": [{"iteration": 1, "top1": 50}]}, "not per cent"),
        ({"curve": [{"iteration": 1, "accuracy": 0.5}]}, "unknown"),
        ({"curve": [{"lr": 0.1}]}, "iteration is missing"),
        ({"cost": {"seconds": -1}}, "at least 0"),
        ({"environment": deep(100_000)}, "8 levels"),
        ({"environment": {"x": ["y"] * 1001}}, "at most 1000 values"),
        ({"environment": {"x": object()}}, "expected a number"),
        ({"notes": {"x": "y" * 2001}}, "at most 2000 characters"),
        ({"notes": {"x": "a\0b"}}, "control character"),
        ({"source": ""}, "expected a name"),
        ({"created_at": "soon"}, "ISO 8601"),
    ],
)
def test_a_bad_run_is_refused_in_one_line(changes: dict, part: str) -> None:
    refused(lambda: Run.from_dict(run_dict(**changes)), part)


def test_the_constructor_refuses_dicts_for_values() -> None:
    refused(lambda: make_run(task=TASK.to_dict()), "expected a Task")
    refused(lambda: make_run(policy=POLICY.to_dict()), "expected an LRPolicy")
    refused(lambda: make_run(curve=({"iteration": 1},)), "expected a CurvePoint")
    refused(lambda: make_run(curve=(CurvePoint(1),) * 100_001), "every n-th")


def test_a_bad_policy_keeps_its_own_error() -> None:
    policy = {**POLICY.to_dict(), "k0": -1.0}
    with pytest.raises(PolicyError):
        Run.from_dict(run_dict(policy=policy))


names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20)
values = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | names
documents = st.dictionaries(names, values | st.lists(values, max_size=3), max_size=4)


@given(
    notes=documents,
    loss=st.floats(),
    top1=st.floats(0, 1),
    seed=st.none() | st.integers(0, 2**62),
    when=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_every_run_survives_json(notes, loss, top1, seed, when) -> None:
    run = make_run(
        notes=notes, metrics={"top1": top1, "eval_loss": loss}, seed=seed, created_at=str(when)
    )
    again = Run.from_dict(json.loads(json.dumps(run.to_dict(), allow_nan=False)))
    assert again == run
    assert again.uid == run.uid


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(field=st.sampled_from(list(make_run().to_dict())), value=junk)
def test_junk_is_accepted_or_refused_never_a_crash(field: str, value: object) -> None:
    try:
        run = Run.from_dict(run_dict(**{field: value}))
    except LRBenchError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        json.dumps(run.to_dict(), allow_nan=False)


def test_runs_go_by_the_name_that_the_environment_gives(monkeypatch):
    monkeypatch.delenv("LRBENCH_SOURCE", raising=False)
    assert Run(TASK, POLICY, 64_000).source == "local"
    monkeypatch.setenv("LRBENCH_SOURCE", "ann")
    assert Run(TASK, POLICY, 64_000).source == "ann"
    assert Run(TASK, POLICY, 64_000, source="lab").source == "lab"
    monkeypatch.setenv("LRBENCH_SOURCE", "")
    assert Run(TASK, POLICY, 64_000).source == "local"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_curve_keeps_six_digits(value):
    kept = CurvePoint(1, train_loss=value).train_loss
    if not math.isfinite(value):
        assert kept is None
        return
    assert kept == pytest.approx(value, rel=5.1e-6, abs=5e-324)
    assert CurvePoint(1, train_loss=kept).train_loss == kept
    assert float(f"{kept:.6g}") == kept

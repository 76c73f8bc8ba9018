"""SQLite and PostgreSQL give the same answers to the same calls, whatever these are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lrbench_hpo.database import Database, Origin, connect
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy, compose
from lrbench_hpo.records.run import SPLITS, STATUSES, CurvePoint, Run, Task

TASKS = [
    Task("digits", "mlp"),
    Task("DIGITS", "m-l-p", batch_size=32, momentum=0.9, image_shape=(1, 8, 8)),
    Task("ÉTÉ 😀", "x'y\"z", num_train=2**63 - 1, weight_decay=5e-324, reference_lr=1e308),
]
POLICIES = [
    LRPolicy("FIX", k0=0.1),
    LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000),
    LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[3, 50]),
    compose([(9, LRPolicy("FIX", k0=0.01)), (None, LRPolicy("EXP", k0=0.1, gamma=0.99))]),
]
SOURCES = ["local", "Local", "équipe", "team's", "z%_", "~", " a"]
TIMES = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z", "1999-12-31T23:59:59-05:00"]
FILES = ["a.jsonl", "A.jsonl", "é'b.csv"]
ORIGINS = [
    Origin("ann@lab", "2026-03-01T00:00:00Z", "0.2.0"),
    Origin("ann@lab", "2026-03-01T00:00:00Z", "0.2.0", FILES[0], "ab"),
    Origin("ben", TIMES[2], "0.1.0", FILES[2], before=Origin("ann", TIMES[0], "0", FILES[1])),
]

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63) + 1, 2**63 - 1)
metrics = st.fixed_dictionaries(
    {},
    optional={
        # Few values, for the order of those that are equal; and any.
        "top1": st.none() | st.sampled_from([0, 0.5, 0.9, 1]) | st.floats(0, 1),
        "top5": st.floats(0, 1),
        "iterations_to_best": st.none() | st.integers(0, 100),
        "loss_difference": st.sampled_from([-0.0, 0.1, -0.1]) | numbers,
        "other": numbers,
    },
)
curves = st.lists(
    st.tuples(st.floats(0, 1), numbers, st.none() | numbers, st.none() | st.floats(0, 1)),
    max_size=3,
).map(lambda rows: tuple(CurvePoint(i, *row) for i, row in enumerate(rows)))
texts = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=5)
runs = st.builds(
    Run,
    st.sampled_from(TASKS),
    st.sampled_from(POLICIES),
    st.sampled_from([100, 2**63 - 1]),
    seed=st.sampled_from([None, 0, 1, 2**63 - 1, -(2**63) + 1]),
    split=st.sampled_from(SPLITS),
    status=st.sampled_from(STATUSES),
    metrics=metrics,
    curve=curves,
    source=st.sampled_from(SOURCES),
    created_at=st.sampled_from(TIMES),
    notes=st.dictionaries(texts.filter(str.strip), texts | numbers, max_size=2),
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["Digits", "été😀", "nothing"]),
        "model": st.sampled_from(["MLP", "X'Y\"Z"]),
        "function": st.sampled_from(["fix", "SINEXP", "COMPOSED", "none such"]),
        "source": st.sampled_from([*SOURCES, "lrbench-paper", 5]),
        "since": st.sampled_from([*TIMES, "soon"]),
        "until": st.sampled_from(TIMES),
        "status": st.sampled_from([*STATUSES, "fine"]),
        "policy": st.sampled_from(POLICIES),
        "seed": st.sampled_from([0, 2**63 - 1, 2**63]),
        "max_iterations": st.sampled_from([100, 2**63 - 1]),
    },
)
counts = st.sampled_from([1, 2, 3, 50])


def call(name: str, *arguments: st.SearchStrategy, **named: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


calls = st.one_of(
    call("add", st.lists(runs, max_size=8), st.none() | st.sampled_from(ORIGINS)),
    call("add again", st.integers(0, 10), st.none() | st.sampled_from(ORIGINS)),
    call("find", filters, limit=st.none() | counts, curves=st.booleans()),
    call("stored", filters, curves=st.booleans()),
    call("best", st.sampled_from(["digits", "été 😀"]), st.sampled_from(["mlp", "x'y\"z"]), counts),
    call(
        "evidence",
        st.sampled_from(TASKS),
        counts,
        st.none() | st.lists(st.sampled_from(SOURCES), max_size=3),
    ),
    call("forget", source=st.sampled_from(SOURCES), dry_run=st.booleans()),
    call("forget", file=st.sampled_from(FILES), dry_run=st.booleans()),
    call("lookup", st.text("0123456789abcdefg", max_size=3), counts),
    call("has_source", st.sampled_from(SOURCES)),
    *(call(name) for name in ("tasks", "task_counts", "origins", "stats", "check_writable")),
)


def answer(db: Database, known: list[Run], name: str, given: tuple, named: dict) -> object:
    """What a call gives, in a form that can be compared: an error is an answer too."""
    try:
        if name == "add":
            return db.add(*given[0], origin=given[1])
        if name == "add again":
            return db.add(*known[: given[0]], origin=given[1])
        if name in ("find", "stored"):
            named = {**given[0], **named}
            return list(getattr(db, name)(**named))
        found = getattr(db, name)(*given, **named)
    except LRBenchError as error:
        return type(error), str(error)
    if name == "stats":
        found = dataclasses.replace(found, location="", size_bytes=0)
        return found, list(found.by_source.items()), list(found.by_status.items())
    return found


@pytest.fixture
def both(tmp_path, postgres_database: str) -> Iterator[list[Database]]:
    urls = [f"sqlite:///{tmp_path}/lr.db", postgres_database]
    with connect(urls[0]) as one, connect(urls[1]) as other:
        yield [one, other]


def emptied(db: Database, sql: Callable[..., object]) -> None:
    url = db.url.render_as_string(hide_password=False)
    for table in ("curves", "runs", "tasks", "origins"):
        sql(url, f"DELETE FROM lrbench_{table}")  # noqa: S608


@pytest.mark.slow
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Making a failure smaller takes up to five minutes here: add Phase.shrink to find its cause.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(sequence=st.lists(calls, min_size=3, max_size=12))
def test_any_calls_give_the_same_on_both(both: list[Database], sql, sequence: list) -> None:
    known: list[Run] = []
    for db in both:
        emptied(db, sql)
    for name, values, named in sequence:
        one, other = (answer(db, known, name, values, named) for db in both)
        assert one == other, (name, values, named)
        if name == "add":
            known += values[0]
    assert list(both[0].stored()) == list(both[1].stored())


def test_the_published_rows_are_the_same_on_both(both: list[Database]) -> None:
    one, other = both
    assert len(one.find()) == 61
    assert one.find(curves=True) == other.find(curves=True)
    assert [run for run, _ in one.stored()] == [run for run, _ in other.stored()]
    assert one.tasks() == other.tasks()
    for task in one.tasks():
        assert one.best(task.dataset, task.model, 100) == other.best(task.dataset, task.model, 100)
        assert one.evidence(task, 20) == other.evidence(task, 20)

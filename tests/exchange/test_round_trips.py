"""What is exported is imported again as the same runs, whatever is in them."""

from __future__ import annotations

import gzip
import json
import math
import string
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrbench_hpo.database import Database, Origin, connect
from lrbench_hpo.exchange.export import export
from lrbench_hpo.exchange.files import Line, open_input
from lrbench_hpo.exchange.formats import csv_table as table
from lrbench_hpo.exchange.formats import jsonl
from lrbench_hpo.exchange.formats.detect import runs_in
from lrbench_hpo.exchange.importing import import_rows
from lrbench_hpo.exchange.rows import Found
from lrbench_hpo.policies import ALL_FUNCTIONS, FUNCTIONS, LRPolicy, compose
from lrbench_hpo.records.run import SHARES, SPLITS, STATUSES, CurvePoint, Run, Task

FORMATS = ["jsonl", "jsonl.gz", "csv", "csv.gz"]
# What a spreadsheet, a shell, SQL or a terminal would take for something else.
TRAPS = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "'=1", "''=1", "'", "''", "' =1", " =1", "＝1+1", "－1"),
    *("'quoted'", '"', '""', "a,b", "a;b", ",", "null", "NULL", "nan", "true", "{}", "[1]", "1e5"),
    *("'; DROP TABLE lrbench_runs; --", "%s", "$(reboot)", "[red]x[/red]", "\\N", "007", "1_0"),
]
texts = st.one_of(
    st.sampled_from(TRAPS),
    st.text(
        st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"]), max_size=30
    ),
).filter(str.isprintable)
names = texts.filter(lambda text: bool(text.strip()))
task_names = names.filter(lambda text: bool(text.translate(str.maketrans("", "", "-_ "))))
numbers = st.one_of(
    st.none(), st.floats(), st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from([-0.0, 5e-324])
)
counts = st.one_of(st.none(), st.integers(1, 2**63 - 1))
shares = st.one_of(st.none(), st.floats(0, 1))
positive = st.one_of(st.none(), st.floats(0, 1e300), st.integers(0, 2**63 - 1))
trees = st.recursive(
    st.one_of(numbers, st.booleans(), texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
BUDGET = 1000


@st.composite
def policies(draw: st.DrawFn) -> LRPolicy:
    function = draw(st.sampled_from(sorted(ALL_FUNCTIONS)))
    rate = st.floats(1e-12, 1e3)
    length = st.one_of(st.integers(1, 10**9), st.floats(1, 1e9))
    values = {
        "k0": rate,
        "k1": rate,
        "gamma": st.floats(1e-6, 1),
        "p": st.floats(0.1, 5),
        "l": st.lists(length, min_size=1, max_size=4, unique_by=float).map(
            lambda found: sorted(found, key=float)
        )
        if function == "NSTEP"
        else length,
    }
    given = {name: draw(values[name]) for name in FUNCTIONS[function].parameters}
    policy = LRPolicy(function, **given)
    return (
        compose([(draw(st.integers(1, 900)), policy), (None, policy)])
        if draw(st.booleans())
        else policy
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    task = Task(
        draw(task_names),
        draw(task_names),
        num_classes=draw(counts),
        num_train=draw(counts),
        image_shape=draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 10**6)] * 3))),
        framework=draw(st.one_of(st.none(), names)),
        optimizer=draw(st.one_of(st.none(), names.filter(lambda t: len(t.lower()) < 200))),
        momentum=draw(st.one_of(st.none(), st.floats(0, 1, exclude_max=True))),
        weight_decay=draw(positive.filter(lambda v: v is None or math.isfinite(v))),
        init=draw(st.one_of(st.none(), names)),
    )
    metrics = draw(st.dictionaries(st.sampled_from(sorted(SHARES)), shares))
    metrics |= draw(st.dictionaries(st.sampled_from(["loss_difference", "train_loss"]), numbers))
    others = names.filter(lambda n: not n.startswith("iterations_to_") and n not in SHARES)
    metrics |= draw(
        st.dictionaries(others.filter(lambda n: n != "classes_left_out"), numbers, max_size=3)
    )
    cost = draw(st.dictionaries(st.sampled_from(["seconds", "gpu_mib", "$"]) | names, positive))
    steps = draw(st.lists(st.integers(0, BUDGET), unique=True, max_size=5).map(sorted))
    curve = tuple(
        CurvePoint(step, draw(positive), draw(numbers), draw(numbers), draw(shares))
        for step in steps
    )
    return Run(
        task,
        draw(policies()),
        BUDGET,
        seed=draw(st.one_of(st.none(), st.integers(-(2**63) + 1, 2**63 - 1))),
        split=draw(st.sampled_from(SPLITS)),
        status=draw(st.sampled_from(STATUSES)),
        metrics=metrics,
        curve=curve,
        cost=cost,
        environment=draw(st.dictionaries(names, trees, max_size=3)),
        source=draw(names.filter(lambda n: "paper" not in n)),
        created_at=draw(st.datetimes(max_value=datetime(2026, 1, 1))).isoformat() + "Z",
        notes=draw(st.dictionaries(names, trees, max_size=3)),
    )


origins = st.one_of(
    st.none(),
    st.builds(
        Origin,
        who=names,
        at=st.just("2026-01-01T00:00:00Z"),
        version=names,
        file=st.one_of(st.none(), texts),
        checksum=st.one_of(st.none(), st.text(string.hexdigits, min_size=64, max_size=64)),
    ),
)


def same(found: Run, run: Run, *, curve: bool = True) -> None:
    assert found.uid == run.uid
    assert found.task == run.task
    assert found.policy == run.policy
    assert repr(found.to_dict()["metrics"]) == repr({k: found.metrics[k] for k in found.metrics})
    assert {k: repr(v) for k, v in found.metrics.items()} == {
        k: repr(v) for k, v in run.metrics.items()
    }
    assert found.curve == (run.curve if curve else ())
    assert found.to_dict() == {**run.to_dict(), **({} if curve else {"curve": []})}


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(runs(), origins, st.booleans())
def test_a_line_of_json(run: Run, origin: Origin | None, curves: bool) -> None:
    line = jsonl.line_of(run, origin, curves=curves)
    assert line.isascii()
    [found] = jsonl.read("runs", [Line(1, jsonl.header()), Line(2, line)])
    assert isinstance(found, Found), found
    assert (found.origin, found.place) == (origin, "line 2")
    same(found.run, run, curve=curves)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(runs(), origins, st.booleans())
def test_a_line_of_csv(run: Run, origin: Origin | None, curves: bool) -> None:
    line, columns = table.line_of(run, origin, curves=curves), table.header(curves=curves)
    assert line.isprintable()
    for name, cell in zip(table.cells_of(columns), table.cells_of(line), strict=True):
        if cell.lstrip()[:1] in tuple("=+-@＝＋－＠"):  # a number, or nothing at all
            assert not cell or math.isfinite(float(cell)), name
    [found] = table.read("runs", table.cells_of(columns), [Line(2, line)])
    assert isinstance(found, Found), found
    assert (found.origin, found.place) == (origin, "line 2")
    same(found.run, run, curve=curves)


@given(texts | st.text(alphabet="'=+-@\t\r ＝x", max_size=6))
def test_shielded_text_is_the_same_again(text: str) -> None:
    shielded = table.shielded(text)
    assert table.unshielded(shielded) == text
    assert shielded.lstrip()[:1] not in tuple("=+-@＝＋－＠") or not shielded.strip()
    assert shielded[:1] not in ("\t", "\r")


def import_file(database: Database, path: Path, **options) -> object:
    with open_input(path) as file:
        return import_rows(
            database, runs_in(file), file=file.name, checksum=file.checksum, **options
        )


@pytest.mark.parametrize("form", FORMATS)
@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(st.tuples(runs(), origins), max_size=6), curves=st.booleans())
def test_a_file_between_two_databases(
    form: str, rows: list, curves: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    path = folder / f"runs.{form}"
    with connect(folder / "here.db") as here, connect(folder / "there.db") as there:
        for run, origin in rows:
            here.add(run, origin=origin)
        written = export(here, path, curves=curves)
        stored = {run.uid: (run, origin) for run, origin in here.stored()}
        assert written.runs == len(stored)
        first = import_file(there, path)
        assert (first.new, first.rejected) == (len(stored) - 61, 0)
        again = import_file(there, path)
        assert (again.new, again.known) == (0, len(stored))
        found = {run.uid: (run, origin) for run, origin in there.stored()}
        assert found.keys() == stored.keys()
        for uid, (run, origin) in found.items():
            before_run, before = stored[uid]
            same(run, before_run, curve=curves)
            if run.source != "lrbench-paper":
                assert (origin.file, len(origin.checksum)) == (str(path), 64)
                assert origin.before == before
        other = folder / f"again.{form}"
        export(there, other, curves=curves)
        with connect("sqlite://") as third:
            import_file(third, other)
            assert {run.uid for run, _ in third.stored()} == stored.keys()


@pytest.mark.parametrize("form", FORMATS)
def test_what_a_database_stores_from_its_own_export_is_nothing(form, make_run, database, tmp_path):
    database.add(*(make_run(n) for n in range(5)))
    export(database, tmp_path / f"runs.{form}")
    report = import_file(database, tmp_path / f"runs.{form}")
    assert (report.new, report.known, report.rejected) == (0, 66, 0)


def test_filters_choose_the_runs(make_run, database, tmp_path) -> None:
    database.add(make_run(1), make_run(2, source="ann"), make_run(3, task=Task("mnist", "mlp")))
    path = tmp_path / "runs.jsonl"
    for number, filters in [
        (61, {"source": "lrbench-paper"}),
        (1, {"source": "ann"}),
        (2, {"dataset": "DIGITS"}),
        (1, {"dataset": "mnist", "model": "mlp"}),
        (3, {"since": "2026-01-01T00:00:00Z"}),
        (2, {"since": "2026-01-01T00:00:02Z"}),
        (0, {"function": "NSTEP", "source": "ann"}),
    ]:
        assert export(database, path, force=True, **filters).runs == number
        assert path.read_text().count("\n") == number + 1


def test_gzip_has_no_time_of_its_own(make_run, database, tmp_path, monkeypatch) -> None:
    database.add(make_run(1))
    monkeypatch.setattr(jsonl, "header", lambda: "{}")
    for form in ("jsonl", "csv"):
        paths = [tmp_path / f"{name}.{form}.gz" for name in "ab"]
        for path in paths:
            export(database, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert paths[0].read_bytes()[4:8] == bytes(4)
        export(database, plain := tmp_path / f"plain.{form}")
        assert gzip.decompress(paths[0].read_bytes()) == plain.read_bytes()


def test_the_header_says_who_and_when(database, tmp_path) -> None:
    export(database, tmp_path / "runs.jsonl")
    header = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[0])
    assert (header["format"], header["version"]) == ("lrbench-hpo-runs", 1)
    assert "@" in header["by"]
    assert header["at"].endswith("Z")
    assert header["lrbench_hpo"]


def test_columns_are_the_same_whatever_is_in_the_runs(make_run) -> None:
    assert table.header().startswith("task.dataset,task.model,task.num_classes")
    for metrics in ({}, {"top1": 0.5, "speed": 3.0}):
        line = table.line_of(make_run(metrics=metrics), None)
        assert len(table.cells_of(line)) == len(table.cells_of(table.header()))


def test_a_metric_without_a_value_is_not_one_that_is_absent(make_run) -> None:
    run = make_run(metrics={"top1": None, "ac": 0.5, "mine": None}, curve=())
    [found] = table.read(
        "runs", table.cells_of(table.header()), [Line(2, table.line_of(run, None))]
    )
    assert dict(found.run.metrics) == {"top1": None, "ac": 0.5, "mine": None}
    assert found.run.uid == run.uid

"""What a team needs of a database: where rows come from, all of them in order, and out again."""

from __future__ import annotations

import dataclasses
import tracemalloc
from datetime import UTC, datetime

import pytest

from lrbench_hpo.database import Database, Origin, connect
from lrbench_hpo.errors import DatabaseError, LRBenchError, RecordError
from lrbench_hpo.records.run import CurvePoint, Task

ANN = Origin("ann@lab", "2026-03-01T00:00:00Z", "0.2.0", file="a.jsonl", checksum="ab" * 32)
BEN = Origin("ben@home", "2026-03-02T00:00:00Z", "0.2.0", file="b.jsonl", before=ANN)


def test_find_by_the_other_filters(db: Database, make_run) -> None:
    runs = [
        make_run(0, status="pruned"),
        make_run(1, max_iterations=2000),
        make_run(2, split="test"),
        make_run(-3, seed=None),
    ]
    db.add(*runs)

    def seeds(**given: object) -> list[int | None]:
        return [run.seed for run in db.find(dataset="digits", **given)]

    assert seeds(status="pruned") == [0]
    assert seeds(until="2026-01-01T00:00:01Z", since="2026-01-01T00:00:00Z") == [0]
    assert seeds(until=datetime(2026, 1, 1, tzinfo=UTC)) == []
    assert seeds(max_iterations=2000) == [1]
    assert seeds(seed=2) == [2]
    for bad in ({"status": "fine"}, {"until": "soon"}, {"seed": 0.5}, {"source": 5}):
        with pytest.raises(RecordError) as told:
            db.find(**bad)
        assert "\n" not in str(told.value)


def test_lookup_takes_the_beginning_of_a_uid(db: Database, make_run) -> None:
    runs = [make_run(i) for i in range(30)]
    db.add(*runs, origin=BEN)
    for run in runs[:3]:
        for length in (12, 32):
            assert db.lookup(run.uid[:length]) == [(run, BEN)]
    by_first = [len(db.lookup(first, 100)) for first in "0123456789abcdef"]
    assert sum(by_first) == 91
    assert len(db.lookup("0123456789abcdef"[by_first.index(max(by_first))], 2)) == 2
    assert db.lookup("0" * 32) == []
    for bad in ("%", "", "xyz", "A"):
        with pytest.raises(RecordError) as told:
            db.lookup(bad)
        assert "\n" not in str(told.value)


def test_task_counts(db: Database, make_run) -> None:
    other = Task("mine", "alone")
    db.add(make_run(0), make_run(1, metrics={"top1": 0.95}), make_run(2, task=other, metrics={}))
    counts = {task: (number, best) for task, number, best in db.task_counts()}
    assert sum(number for number, _ in counts.values()) == 64
    assert counts[make_run().task] == (2, 0.95)
    assert counts[other] == (1, None)


def test_stored_gives_all_in_the_order_they_came(db: Database, make_run) -> None:
    later, earlier = make_run(9), make_run(1)
    db.add(later)
    db.add(earlier, origin=ANN)
    found = list(db.stored())
    assert len(found) == 63
    assert [run for run, _ in found[-2:]] == [later, earlier]
    assert found[0][0].source == "lrbench-paper"
    own, given = (origin for _, origin in found[-2:])
    assert given == ANN
    assert own.file is None
    assert (own.who, own.version) == (Origin.here().who, Origin.here().version)
    [(bare, _)] = db.stored(dataset="digits", since="2026-01-01T00:00:09Z", curves=False)
    assert bare == dataclasses.replace(later, curve=())
    assert [run.seed for run, _ in db.stored(source="local")] == [9, 1]
    with pytest.raises(RecordError, match="status='fine'"):
        list(db.stored(status="fine"))


def test_stored_reads_page_by_page_while_others_write(db: Database, make_run) -> None:
    db.add(*(make_run(i, curve=()) for i in range(1200)))
    seen = []
    for number, (run, origin) in enumerate(db.stored(dataset="digits")):
        if number == 600:
            db.add(make_run(5000), origin=BEN)
        seen.append((run.seed, origin))
    assert [seed for seed, _ in seen] == [*range(1200)]  # what was there when it began
    assert list(db.stored(dataset="digits"))[-1] == (make_run(5000), BEN)


def test_stored_hands_over_the_rows_that_break_a_rule(
    db: Database, make_run, database_url, sql, recwarn
) -> None:
    cnn3 = Task("digits", "cnn3")
    db.add(*(make_run(n) for n in range(3)), make_run(3, task=cnn3), origin=BEN)
    db.add(make_run(4, task=cnn3), origin=ANN)
    sql(database_url, "UPDATE lrbench_runs SET status = 'done' WHERE id IN (62, 64)")
    sql(database_url, "UPDATE lrbench_tasks SET batch_size = -1 WHERE model = 'cnn3'")
    sql(database_url, "UPDATE lrbench_origins SET at = 'soon' WHERE who = 'ben@home'")
    bad: dict[str, str] = {}
    found = list(db.stored(dataset="digits", on_bad=bad.__setitem__))
    assert [(run.seed, origin) for run, origin in found] == [(1, None)]
    assert [place.split()[0] for place in bad] == ["origin", "task", "run", "run", "run", "run"]
    assert {reason.partition(": ")[0] for reason in bad.values()} == {"breaks a rule"}
    assert "status='done'" in bad["run 62"]
    assert bad["run 65"] == bad["run 66"] == "breaks a rule: its task does"
    assert not recwarn.list


def test_what_is_done_with_a_bad_row_may_end_the_reading(
    db: Database, make_run, database_url, sql
) -> None:
    def refuse(place: str, reason: str) -> None:
        raise DatabaseError(f"{place}: {reason}")

    db.add(make_run(0), make_run(1))
    sql(database_url, "UPDATE lrbench_runs SET status = 'done' WHERE id = 63")
    with pytest.raises(DatabaseError, match=r"run 63: breaks a rule: .*status='done'"):
        list(db.stored(on_bad=refuse))
    assert db.stats().runs == 63  # the database can still be used


@pytest.mark.slow
def test_stored_needs_the_memory_of_a_page(db: Database, make_run) -> None:
    db.add(*(make_run(i) for i in range(1600)))
    tracemalloc.start()
    try:
        half = 0
        for number, _ in enumerate(db.stored()):
            if number == 600:
                half = tracemalloc.get_traced_memory()[1]
        assert tracemalloc.get_traced_memory()[1] < 1.2 * half
    finally:
        tracemalloc.stop()


def test_origins_say_the_whole_way(db: Database, make_run) -> None:
    db.add(make_run(0), make_run(1), origin=BEN)
    db.add(make_run(2), origin=ANN)
    db.add(make_run(0), origin=ANN)  # it is there already, and stays where it came from
    assert [(origin, n) for origin, n in db.origins() if origin in (ANN, BEN)] == [
        (BEN, 2),
        (ANN, 1),
    ]
    assert {run.seed: origin for run, origin in db.stored(source="local")} == {
        0: BEN,
        1: BEN,
        2: ANN,
    }
    assert sum(number for _, number in db.origins()) == 3  # the published rows have none


def test_an_add_of_nothing_new_leaves_no_origin(db: Database, make_run, sql) -> None:
    url = db.url.render_as_string(hide_password=False)
    db.add(make_run(0))
    db.add(make_run(0), origin=BEN)
    db.add(origin=ANN)
    assert sql(url, "SELECT count(*) FROM lrbench_origins") == [(1,)]
    db.add(make_run(0), make_run(1), origin=BEN)
    assert sql(url, "SELECT count(*) FROM lrbench_origins") == [(3,)]  # and the one before it


def test_a_long_way_loses_its_oldest_steps(db: Database, make_run) -> None:
    origin = None
    for step in range(30):
        origin = Origin.here(file=f"{step}.jsonl", before=origin)
    db.add(make_run(), origin=origin)
    [(_, found)] = db.stored(source="local")
    assert found == origin
    assert [step.file for step in found.steps] == [f"{i}.jsonl" for i in range(29, 21, -1)]


def test_forget_removes_one_source_and_what_hangs_on_it(db: Database, make_run, sql) -> None:
    other = Task("mine", "alone")
    db.add(make_run(0), make_run(1, source="bad"), make_run(2, source="bad", task=other))
    db.add(make_run(3, source="BAD"))
    assert db.forget(source="bad", dry_run=True) == 2
    assert db.stats().runs == 65
    assert db.forget(source="bad") == 2
    assert db.forget(source="bad") == 0
    assert db.stats().by_source == {"lrbench-paper": 61, "BAD": 1, "local": 1}
    assert other not in db.tasks()
    assert db.find("digits", curves=True) == [make_run(3, source="BAD"), make_run(0)]
    url = db.url.render_as_string(hide_password=False)
    assert sql(url, "SELECT count(*) FROM lrbench_curves") == [(2,)]
    assert db.add(make_run(1, source="bad")) == 1  # it may come again


def test_forget_removes_one_imported_file(db: Database, make_run) -> None:
    db.add(make_run(0))
    db.add(make_run(1), make_run(2), origin=ANN)
    db.add(make_run(3), origin=BEN)
    assert db.forget(file="a.jsonl", dry_run=True) == 2
    assert db.forget(file="a.jsonl") == 2
    assert [run.seed for run in db.find("digits")] == [3, 0]
    assert [origin for _, origin in db.stored(seed=3)] == [BEN]  # which came by a.jsonl too
    assert db.forget(file="b.jsonl") == 1
    assert ANN not in dict(db.origins())
    assert db.forget(file="never.jsonl") == 0


def test_forget_tells_files_of_one_name_apart(db: Database, make_run) -> None:
    other = dataclasses.replace(ANN, checksum="cd" * 32)
    copy = dataclasses.replace(ANN, file="copy.jsonl")
    for seed, origin in enumerate([ANN, other, copy, other]):
        db.add(make_run(seed), origin=origin)
    assert db.forget(file="a.jsonl", checksum="ef" * 32) == 0
    assert db.forget(file="a.jsonl", checksum="ab" * 32, dry_run=True) == 1
    assert db.forget(checksum="ab" * 32, dry_run=True) == 2  # under whatever name
    assert db.forget(file="a.jsonl", checksum="cd" * 32) == 2
    assert sorted(run.seed for run in db.find("digits")) == [0, 2]
    assert db.forget(checksum="ab" * 32) == 2


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"source": "a", "file": "b"},
        {"source": "lrbench-paper"},
        {"source": 5},
        {"source": "a", "checksum": "ab"},
        {"checksum": 5},
    ],
)
def test_forget_refuses_what_cannot_be_meant(db: Database, given: dict) -> None:
    with pytest.raises(LRBenchError) as told:
        db.forget(**given)
    assert "\n" not in str(told.value)
    assert db.stats().runs == 61


@pytest.mark.parametrize("text", ["'; DROP TABLE lrbench_runs; --", '"', "%", "a:b", "\\", "é😀"])
def test_names_are_values_never_sql(db: Database, make_run, text: str) -> None:
    run = make_run(0, source=text, task=Task(f"x{text}", f"y{text}"), notes={text: text})
    origin = dataclasses.replace(ANN, who=text, file=text, version=text)
    assert db.add(run, origin=origin) == 1
    assert db.find(f"x{text}", f"y{text}", source=text, curves=True) == [run]
    assert [run.uid for run in db.best(f"x{text}", f"y{text}")] == [run.uid]
    assert list(db.stored(source=text)) == [(run, origin)]
    assert db.forget(source=text) == 1
    assert db.forget(file=text) == 0
    assert db.stats().runs == 61


def test_evidence_of_trusted_sources_only(db: Database, make_run) -> None:
    runs = [make_run(i, source="ab"[i % 2], metrics={"top1": i / 10}) for i in range(8)]
    db.add(*runs)
    task = runs[0].task
    assert [run.seed for run in db.evidence(task, 4)] == [7, 6, 5, 4]
    assert [run.seed for run in db.evidence(task, 4, ["a"])] == [6, 4, 2, 0]
    assert [run.seed for run in db.evidence(task, 4, ["a", "c"])] == [6, 4, 2, 0]
    assert db.evidence(task, 4, []) == []


def test_a_closed_database_says_so(database_url, make_run) -> None:
    with connect(database_url) as db:
        pass
    for call in (lambda: db.add(make_run()), db.find, lambda: list(db.stored()), db.stats):
        with pytest.raises(DatabaseError, match="closed: connect again"):
            call()


def test_a_curve_of_a_hundred_points_takes_less_than_two_kilobytes(
    db: Database, make_run, sql
) -> None:
    curve = tuple(
        CurvePoint(
            640 * i,
            lr=0.1 / (i + 1),
            train_loss=2.3 / (i + 3),
            eval_loss=2.5 / (i + 7),
            top1=1 - 1 / (i + 1.7),
        )
        for i in range(100)
    )
    db.add(make_run(max_iterations=64_000, curve=curve))
    url = db.url.render_as_string(hide_password=False)
    [(size,)] = sql(url, "SELECT length(points) FROM lrbench_curves")
    assert size < 2000
    assert db.find("digits", curves=True)[0].curve == curve


def test_what_was_imported_and_forgotten_leaves_no_trace(
    db: Database, make_run, database_url, sql
) -> None:
    before = Origin("ben@there", "2026-01-01T00:00:00Z", "0.1.0", file="old.jsonl")
    came = Origin("ann@here", "2026-01-02T00:00:00Z", "0.1.0", file="new.jsonl", before=before)
    db.add(make_run(0, task=Task("only", "there")), origin=came)
    assert sql(database_url, "SELECT count(*) FROM lrbench_origins") == [(2,)]
    assert db.forget(file="new.jsonl") == 1
    assert sql(database_url, "SELECT count(*) FROM lrbench_origins") == [(0,)]
    assert sql(database_url, "SELECT count(*) FROM lrbench_tasks") == [(3,)]


def test_of_equal_scores_the_newest_comes_first(db: Database, make_run) -> None:
    db.add(*(make_run(i) for i in (3, 1, 2)))
    assert [run.seed for run in db.best("digits", "mlp", n=2)] == [3, 2]
    assert [run.seed for run in db.evidence(make_run().task, 2)] == [3, 2]


def test_a_bad_origin_hides_no_run(db: Database, make_run, database_url, sql) -> None:
    db.add(make_run(), origin=ANN)
    sql(database_url, "UPDATE lrbench_origins SET who = ''")
    with pytest.warns(UserWarning, match="origin 1 in the database breaks a rule"):
        assert list(db.stored(source="local")) == [(make_run(), None)]
    with pytest.warns(UserWarning, match="origin 1 in the database breaks a rule"):
        assert db.lookup(make_run().uid) == [(make_run(), None)]


def test_many_reference_lrs_are_one_task(db: Database, make_run) -> None:
    tasks = [Task("digits", "mlp", reference_lr=0.01 * (i + 1)) for i in range(40)]
    runs = [make_run(i, task=t, metrics={"top1": i / 40}, curve=()) for i, t in enumerate(tasks)]
    db.add(*runs)
    found = db.evidence(tasks, 10)
    assert len(found) == 10
    assert [run.seed for run in found[:5]] == [39, 38, 37, 36, 35]
    assert {run.uid for run in found} <= {run.uid for run in runs}


def test_one_training_under_two_sources_is_one_run(db: Database, make_run) -> None:
    assert db.add(make_run(0)) == 1
    assert db.add(make_run(0, source="ann")) == 0
    assert [run.source for run in db.find("digits")] == ["local"]


def test_add_from_keeps_each_runs_origin(db: Database, make_run) -> None:
    rows = [(make_run(0), ANN), (make_run(1), BEN), (make_run(2), None)]
    assert db.add_from(rows) == 3
    assert list(db.stored(source="local")) == rows
    assert db.add_from(rows) == 0
    assert [run.seed for run in db.find(imported=True)] == [1, 0]
    assert [run.seed for run in db.find("digits", imported=False)] == [2]


def test_a_database_knows_itself_under_any_name(db: Database, database_url, with_query) -> None:
    name = "timeout" if database_url.startswith("sqlite") else "application_name"
    with connect(with_query(database_url, **{name: "7"})) as same:
        assert same.identity() == db.identity()
    with connect("sqlite://") as other, connect("sqlite://") as another:
        assert len({db.identity(), other.identity(), another.identity()}) == 3

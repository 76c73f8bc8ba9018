"""Search-space files: what is read, and what is refused with file and line."""

import pytest

from lrbench_hpo import load_space
from lrbench_hpo.database.paper import paper_runs
from lrbench_hpo.errors import SearchSpaceError
from lrbench_hpo.policies import ALL_FUNCTIONS
from lrbench_hpo.policies.coordinates import Scale, to_coordinates
from lrbench_hpo.policies.space_files import published_spaces, space_for

GOOD = """\
version: 1
reference_lr: 0.05
task: {dataset: mine, model: net}
functions:
  SINEXP:
    peak: {low: 1, high: 20, log: true, from: "a guess"}
    floor: {low: 1e-4, high: 0.5, log: true}
    half_cycles: {low: 2, high: 20}
    end: {low: 0.01, high: 0.9}
  fix:
    peak: {low: 0.1, high: 10}
"""


def written(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_ones_own(tmp_path):
    space = load_space(str(written(tmp_path, GOOD)))
    assert list(space.functions) == ["SINEXP", "FIX"]
    assert space.functions["SINEXP"]["floor"].low == 1e-4
    assert space.functions["SINEXP"]["peak"].origin == "a guess"
    assert space.reference_lr == 0.05
    assert space.task == ("mine", "net")


def test_extending_takes_the_rest_from_the_default(tmp_path):
    space = load_space(written(tmp_path, GOOD.replace("version: 1", "extends: default")))
    assert set(space.functions) == set(ALL_FUNCTIONS)
    assert space.functions["FIX"]["peak"].high == 10
    assert space.functions["COS"] == load_space("default").functions["COS"]


@pytest.mark.parametrize("name", published_spaces())
def test_published_spaces_are_whole_and_say_where_ranges_come_from(name):
    space = load_space(name)
    assert set(space.functions) == set(ALL_FUNCTIONS)
    assert all(r.origin for ranges in space.functions.values() for r in ranges.values())


@pytest.mark.parametrize("run", paper_runs(), ids=lambda run: str(run.policy))
def test_published_spaces_hold_every_published_policy(run):
    space = space_for(run.task.dataset, run.task.model)
    assert space.reference_lr == run.task.reference_lr
    point = to_coordinates(run.policy, Scale(run.max_iterations, run.task.reference_lr))
    _, moved = space.clip(run.policy.function, point)
    assert moved == []


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("SINEXP:", "SINEXPP:"), 5, "did you mean SINEXP"),
        (("half_cycles", "halfcycles"), 8, "did you mean half_cycles"),
        (("end: {low: 0.01, high: 0.9}", "end: {low: 0.9, high: 0.01}"), 9, "swap them"),
        (("low: 2, high: 20", "low: 2.5, high: 20"), 8, "whole number"),
        (("low: 2, high: 20", "low: 0, high: 20"), 8, "outside 1"),
        (("low: 2, high: 20", "low: two, high: 20"), 8, "expected a number, got 'two'"),
        (("low: 2, high: 20", 'low: "2", high: 20'), 8, "expected a number, got '2'"),
        (("low: 2, high: 20", "low: .nan, high: 20"), 8, "finite"),
        (("low: 2, high: 20", "low: 2"), 8, "no high"),
        (("log: true, from", "log: 7, from"), 6, "true or false"),
        (("{low: 2, high: 20}", "[2, 20]"), 8, "got seq"),
        (('from: "a guess"', 'form: "a guess"'), 6, "did you mean from"),
        (("    end: {low: 0.01, high: 0.9}\n", ""), 5, "no range for end"),
        (("  fix:", "  SINEXP:"), 10, "given twice"),
        (("version: 1", "version: 2"), 1, "expected version 1"),
        (("version: 1", "extends: nothing"), 1, "unknown space"),
        (("reference_lr: 0.05", "reference_lr: -1"), 2, "above 0"),
        (("model: net", "modell: net"), 3, "did you mean model"),
        (("functions:", "fonctions:"), 4, "did you mean functions"),
        (("{low: 2, high: 20}", "{low: 2, high: 20"), 9, "not YAML"),
        (('a guess"', 'a guess", low: 3'), 6, "given twice"),
        (("{low: 2, high: 20}", '!!python/object/apply:os.system ["true"]'), 8, "nothing is run"),
        (("low: 2,", "low: !mine 2,"), 8, "nothing is run"),
        (("\nfunctions:", "\nfunctions: {}\nother:"), 5, "unknown key"),
    ],
)
def test_errors_name_file_and_line(tmp_path, change, line, says):
    text = GOOD.replace(*change, 1)
    assert text != GOOD
    path = written(tmp_path, text)
    with pytest.raises(SearchSpaceError, match=says) as caught:
        load_space(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("- 1\n", "expected keys"), ("x", "x")])
def test_files_that_hold_something_else(tmp_path, text, says):
    with pytest.raises(SearchSpaceError, match=says):
        load_space(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SearchSpaceError, match="No such file"):
        load_space(tmp_path / "none.yaml")
    with pytest.raises(SearchSpaceError, match="directory"):
        load_space(tmp_path)
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SearchSpaceError, match="not a text file"):
        load_space(binary)
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001)
    with pytest.raises(SearchSpaceError, match="larger than 1 MB"):
        load_space(large)

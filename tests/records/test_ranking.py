from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from lrbench_hpo.errors import RecordError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.ranking import PolicyResult, rank_policies, results_by_policy, student_t95
from lrbench_hpo.records.run import Run, Task
from lrbench_hpo.records.score import WORST_SCORE, ScoreWeights, score, score_run


def fix(k0: float) -> LRPolicy:
    return LRPolicy("FIX", k0=k0)


def scored(**changes) -> float:
    given = {"top1": 0.9, "iterations_to_best": 50, "max_iterations": 100, "loss_difference": 0.2}
    return score(**{**given, **changes})


def test_score_is_the_formula() -> None:
    assert scored() == pytest.approx(0.9 - 0.005 * 0.5 - 0.01 * 0.2)
    assert scored(loss_difference=-0.2) == scored()
    assert scored(weights={"iterations": 0.1}) == pytest.approx(0.9 - 0.05 - 0.002)
    assert scored(weights=ScoreWeights(0, 0)) == 0.9


def test_what_was_not_measured() -> None:
    assert scored(iterations_to_best=None) == scored(iterations_to_best=100)
    assert scored(loss_difference=None) == scored(loss_difference=0)
    assert scored(top1=None) == WORST_SCORE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["top1", "iterations_to_best", "loss_difference"])
def test_a_diverged_run_scores_worst(name: str, bad: float) -> None:
    assert scored(**{name: bad}) == WORST_SCORE


@given(st.floats(0, 1), st.floats(0, 1), st.floats())
def test_a_score_is_never_below_the_worst(top1: float, reached: float, difference: float) -> None:
    value = scored(top1=top1, iterations_to_best=100 * reached, loss_difference=difference)
    assert WORST_SCORE <= value <= top1


def test_scalars_of_other_libraries_count_as_numbers() -> None:
    assert scored(top1=np.float32(0.5), iterations_to_best=np.int64(0)) == pytest.approx(0.498)


@pytest.mark.parametrize(
    "changes",
    [
        {"top1": 93},
        {"top1": -0.1},
        {"top1": "0.9"},
        {"top1": [0.9, 0.8]},
        {"iterations_to_best": 101},
        {"iterations_to_best": -1},
        {"max_iterations": 0},
        {"max_iterations": math.nan},
        {"weights": {"speed": 1}},
        {"weights": {"iterations": -1}},
        {"weights": {"iterations": math.nan}},
        {"weights": {"iterations": "a"}},
        {"weights": 0.5},
    ],
)
def test_bad_values_are_refused_in_one_line(changes: dict) -> None:
    with pytest.raises(RecordError) as caught:
        scored(**changes)
    assert "\n" not in str(caught.value)


def test_weights_go_to_a_dict_and_back() -> None:
    weights = ScoreWeights(0.1, 0)
    assert ScoreWeights.of(weights.to_dict()) == weights


def test_score_of_a_run() -> None:
    metrics = {"top1": 0.9, "loss_difference": -0.1, "iterations_to_best": 10}
    good = Run(Task("a", "b"), fix(0.1), 100, metrics=metrics)
    assert score_run(good) == pytest.approx(0.9 - 0.0005 - 0.001)
    assert score_run(good, {"iterations": 0, "loss_difference": 0}) == 0.9
    bare = Run(Task("a", "b"), fix(0.1), 100, metrics={"top1": 0.9})
    assert score_run(bare) == pytest.approx(0.895)
    for status in ("diverged", "failed"):
        assert score_run(Run(good.task, fix(0.1), 100, status=status, metrics=metrics)) == -1
    assert score_run(Run(good.task, fix(0.1), 100, metrics={"top1": math.nan})) == -1


def test_student_t_table() -> None:
    for degrees in range(1, 31):
        assert student_t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=6e-4)
    for degrees in (31, 40.5, 100, 1e6):
        assert student_t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=4e-3)
    assert student_t95(2.9) == student_t95(2)


def ranks(rows: list[tuple], **options) -> list[tuple[int, float]]:
    """Rank of each (name, mean, std, n), named by its k0."""
    results = [PolicyResult(fix(k0), *values) for k0, *values in rows]
    return [(entry.rank, entry.policy.k0) for entry in rank_policies(results, **options)]


def published(rows: dict[str, tuple[float, float]]) -> list[tuple[int, str]]:
    results, names = [], {}
    for index, (name, (mean, std)) in enumerate(rows.items()):
        policy = fix(1e-3 * (index + 1))
        names[policy] = name
        results.append(PolicyResult(policy, mean / 100, std / 100, 5))
    return [(entry.rank, names[entry.policy]) for entry in rank_policies(results)]


def test_the_papers_mnist_rows() -> None:
    rows = {"NSTEP": (99.12, 0.01), "INV": (99.09, 0.02), "COS": (99.32, 0.04)}
    rows |= {"SIN2": (99.33, 0.02), "SIN": (99.31, 0.04), "TRI": (99.28, 0.02)}
    assert published(rows) == [
        (1, "SIN2"),
        (1, "COS"),
        (1, "SIN"),
        (4, "TRI"),
        (5, "NSTEP"),
        (6, "INV"),
    ]


def test_the_papers_resnet_rows() -> None:
    rows = {"NSTEP": (92.38, 0.04), "TRIEXP": (92.76, 0.14), "SINEXP": (92.81, 0.08)}
    assert published(rows) == [(1, "SINEXP"), (1, "TRIEXP"), (3, "NSTEP")]


def test_the_papers_cnn3_rows() -> None:
    rows = {"SIN": (81.76, 0.12), "TRIEXP": (81.92, 0.13), "SINEXP": (82.16, 0.08)}
    rows |= {"NSTEP": (81.61, 0.18), "COS": (81.43, 0.14)}
    assert published(rows) == [
        (1, "SINEXP"),
        (2, "TRIEXP"),
        (2, "SIN"),
        (4, "NSTEP"),
        (4, "COS"),
    ]


def test_ties_are_not_chained() -> None:
    # Each is within the noise of the next, the first is not of the third.
    rows = [(0.1, 0.92, 0.01, 5), (0.2, 0.91, 0.01, 5), (0.3, 0.90, 0.01, 5)]
    assert ranks(rows) == [(1, 0.1), (1, 0.2), (3, 0.3)]


def test_policies_say_with_whom_they_tie() -> None:
    a, b, c = (PolicyResult(fix(k), m, 0.01, 5) for k, m in ((0.1, 0.92), (0.2, 0.92), (0.3, 0.5)))
    first, second, third = rank_policies([c, a, b])
    assert (first.tied_with, second.tied_with, third.tied_with) == ((fix(0.2),), (fix(0.1),), ())


def test_few_seeds_borrow_the_noise_of_all() -> None:
    # Two seeds that happen to agree do not prove a policy noiseless.
    rows = [(0.1, 0.905, 0.0, 2), (0.2, 0.900, 0.01, 5), (0.3, 0.904, None, 1)]
    assert [rank for rank, _ in ranks(rows)] == [1, 1, 1]
    rows = [(0.1, 0.905, 0.0, 2), (0.2, 0.900, 0.0001, 5), (0.3, 0.88, None, 1)]
    assert [rank for rank, _ in ranks(rows)] == [1, 2, 3]


def test_single_seeds_tie_by_the_evaluation_samples_only() -> None:
    rows = [(0.1, 0.92, None, 1), (0.2, 0.91, None, 1), (0.3, 0.80, None, 1)]
    assert [rank for rank, _ in ranks(rows)] == [1, 2, 3]
    assert [rank for rank, _ in ranks(rows, evaluation_samples=500)] == [1, 1, 3]
    assert [rank for rank, _ in ranks(rows, evaluation_samples=10**6)] == [1, 2, 3]
    equal = [(0.1, 0.9, None, 1), (0.2, 0.9, None, 1)]
    assert [rank for rank, _ in ranks(equal)] == [1, 1]


def test_divergence_is_no_noise() -> None:
    steady = PolicyResult.of(fix(0.1), [0.90, 0.91, 0.92])
    wild = PolicyResult.of(fix(0.2), [0.90, 0.91, 0.92, WORST_SCORE])
    assert (wild.failed, wild.n, wild.std) == (1, 4, steady.std)
    assert [entry.rank for entry in rank_policies([wild, steady])] == [1, 2]
    lost = [PolicyResult.of(fix(k), [WORST_SCORE] * 2) for k in (0.3, 0.4)]
    assert [entry.rank for entry in rank_policies([*lost, steady])] == [1, 2, 2]


def test_scores_are_gathered_by_policy() -> None:
    results = results_by_policy([(fix(0.1), 0.9), (fix(0.2), 0.8), (fix(0.1), 0.92)])
    assert [(r.policy.k0, r.n) for r in results] == [(0.1, 2), (0.2, 1)]
    assert results[0].mean == pytest.approx(0.91)
    assert results[0].std == pytest.approx(np.std([0.9, 0.92], ddof=1))


def test_no_results_no_ranks() -> None:
    assert rank_policies([]) == []


@pytest.mark.parametrize(
    "values", [(math.nan,), (0.9, -0.1), (0.9, math.nan), (0.9, 0.1, 0), (0.9, 0.1, 2, 3)]
)
def test_bad_results_are_refused(values: tuple) -> None:
    with pytest.raises(RecordError):
        PolicyResult(fix(0.1), *values)
    with pytest.raises(RecordError):
        PolicyResult.of(fix(0.1), [])


rows_of = st.lists(
    st.tuples(
        st.floats(0, 1), st.none() | st.floats(0, 0.2) | st.floats(0, 1e300), st.integers(1, 9)
    ),
    max_size=8,
)


@given(rows_of)
@example([(0.5, 1e-160, 5), (0.5, 1e-160, 5)])
def test_ranks_are_a_competition_ranking(rows: list) -> None:
    results = [PolicyResult(fix(0.01 * (i + 1)), *row) for i, row in enumerate(rows)]
    ranked = rank_policies(results)
    assert sorted(r.policy.k0 for r in ranked) == sorted(r.policy.k0 for r in results)
    for place, entry in enumerate(ranked, start=1):
        first = next(i for i, other in enumerate(ranked, start=1) if other.rank == entry.rank)
        assert entry.rank == first <= place
        peers = {other.policy for other in ranked if other.rank == entry.rank}
        assert set(entry.tied_with) == peers - {entry.policy}
    means = [entry.mean for entry in ranked]
    assert means == sorted(means, reverse=True)

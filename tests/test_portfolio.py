"""Choosing a short list out of scattered evidence."""

import numpy as np
import pytest

from lrbench_hpo import LRPolicy, Run
from lrbench_hpo.curve_space import curve_features
from lrbench_hpo.portfolio import Candidate, choose
from lrbench_hpo.tasks import task_for

BUDGET = 1_000


def candidate(policy, quality, weight=1.0):
    run = Run(task_for("digits", "mlp"), policy, BUDGET, metrics={"top1": 0.9})
    return Candidate(policy, {}, run, quality, weight, similarity=1.0)


def fix(k0):
    return LRPolicy("FIX", k0=k0)


def test_curves_do_not_know_names():
    step = LRPolicy("STEP", k0=0.1, gamma=0.1, l=500)
    nstep = LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[500])
    np.testing.assert_array_equal(curve_features(step, BUDGET), curve_features(nstep, BUDGET))
    apart = curve_features(fix(0.1), BUDGET) - curve_features(fix(0.01), BUDGET)
    assert apart == pytest.approx(1.0)


def test_best_first_and_near_copies_left_out():
    known = [candidate(fix(0.1), 1.0), candidate(fix(0.11), 0.99), candidate(fix(1.0), 0.5)]
    chosen = choose(known, BUDGET, 3)
    assert [c.candidate.policy.k0 for c in chosen] == [0.1, 1.0]
    assert chosen[0].evidence[1].policy.k0 == 0.11


def test_own_results_count_more_than_published_ones():
    published, own = candidate(fix(1.0), 1.0, weight=1 / 3), candidate(fix(0.01), 1.0)
    assert choose([published, own], BUDGET, 1)[0].candidate is own


def test_an_own_failure_disproves_a_published_success():
    published = [candidate(fix(1.0), 1.0, 1 / 3), candidate(fix(0.01), 0.6, 1 / 3)]
    assert choose(published, BUDGET, 1)[0].candidate.policy.k0 == 1.0
    diverged = candidate(fix(1.05), 0.0)
    assert choose([*published, diverged], BUDGET, 1)[0].candidate.policy.k0 == 0.01


def test_nothing_but_failures_gives_nothing():
    assert choose([candidate(fix(1.0), 0.0)], BUDGET, 3) == []
    assert choose([], BUDGET, 3) == []


def test_seeds_of_one_policy_are_one_entry():
    known = [candidate(fix(0.1), 1.0 - seed / 100) for seed in range(5)]
    assert len(choose(known, BUDGET, 5)) == 1


def test_the_same_curve_under_another_name_gives_way_to_something_else():
    step = candidate(LRPolicy("STEP", k0=0.1, gamma=0.1, l=500), 0.9)
    nstep = candidate(LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[500]), 0.9)
    other = candidate(fix(0.001), 0.95)
    chosen = [c.candidate for c in choose([step, nstep, other], BUDGET, 3)]
    assert chosen[0] in (step, nstep)
    assert chosen[1] is other

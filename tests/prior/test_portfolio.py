"""Choosing a short list out of scattered evidence."""

import numpy as np
import pytest

from lrbench_hpo import LRPolicy, Run
from lrbench_hpo.policies.features import curve_features
from lrbench_hpo.prior.portfolio import Candidate, choose, cover
from lrbench_hpo.prior.surrogate import Experts, Source, Surface
from lrbench_hpo.records.tasks import task_for

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


DECADES = np.arange(-4.0, 1.01, 0.25)
KNOWN = [candidate(fix(float(10**decade)), 0.9) for decade in DECADES]


def best_at(decade, *, weight=1.0, shifts=((0.0, 1.0),)):
    """A task on which constant LRs of so many decades are best."""
    features = np.repeat(DECADES[:, None], 16, axis=1)
    scores = 0.9 * np.exp(-((DECADES - decade) ** 2))
    return Source(f"at {decade}", 0.8, Surface(features, scores), tuple(shifts), weight)


def chosen_decades(sources, n, known=KNOWN):
    chosen = cover(known, Experts(sources), BUDGET, n)
    return [round(float(np.log10(c.candidate.policy.k0)), 2) for c in chosen]


def test_the_best_of_the_one_task_comes_first():
    [first] = chosen_decades([best_at(-1.0)], 1)
    assert first == pytest.approx(-1, abs=0.26)


def test_two_tasks_between_them_have_one_policy_each():
    """Not the best two of the task that counts more."""
    both = [best_at(-3.0, weight=0.6), best_at(0.0)]
    first, second = chosen_decades(both, 2)
    assert first == pytest.approx(0, abs=0.5)
    assert second == pytest.approx(-3, abs=0.5)


def test_where_the_unit_is_not_known_the_list_goes_through_the_units():
    units = [best_at(-1.0, shifts=((-1.5, 0.3), (0.0, 0.4), (1.5, 0.3)))]
    found = sorted(chosen_decades(units, 3))
    assert found == pytest.approx([-2.5, -1, 0.5], abs=0.5)


def test_near_copies_are_left_out_of_the_cover_too():
    known = [candidate(fix(k0), 0.9) for k0 in (0.1, 0.101, 0.102, 0.103, 1.0)]
    chosen = [c.candidate.policy.k0 for c in cover(known, Experts([best_at(-1.0)]), BUDGET, 5)]
    assert len(chosen) == 2
    assert chosen[-1] == 1.0


def test_the_cover_takes_the_same_curve_of_another_function_late():
    step = candidate(LRPolicy("STEP", k0=0.1, gamma=0.1, l=500), 0.9)
    nstep = candidate(LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[500]), 0.9)
    experts = Experts([best_at(-1.0)])
    said = lambda entry: experts.predict(curve_features(entry.policy, BUDGET)[None])[0][0, 0]  # noqa: E731
    constants = [candidate(fix(float(10**decade)), 0.9) for decade in np.arange(-3, 0, 0.02)]
    other = max((e for e in constants if said(e) < said(step) - 0.1), key=said)
    chosen = [c.candidate for c in cover([step, nstep, other], experts, BUDGET, 3)]
    assert chosen[0] is step
    assert chosen[1] is other


def test_once_the_one_task_is_served_the_next_best_follow():
    decades = chosen_decades([best_at(-1.0)], 4)
    assert all(-2.1 < decade < 0.1 for decade in decades)


def test_the_value_says_which_policy_is_expected_to_be_good():
    chosen = cover(KNOWN, Experts([best_at(-1.0)]), BUDGET, len(KNOWN))
    values = {c.candidate.policy.k0: c.value for c in chosen}
    assert all(0 < value <= 1.5 for value in values.values())
    assert values[0.1] > values[0.01] > values[1e-4]


def test_a_poor_run_is_evidence_and_no_choice():
    poor = candidate(fix(0.1), 0.05)
    near = candidate(fix(0.12), 0.9)
    [choice] = cover([poor, near], Experts([best_at(-1.0)]), BUDGET, 3)
    assert choice.candidate is near
    assert choice.evidence[0] is near


def test_a_cover_of_nothing_and_without_experts():
    assert cover([], Experts([best_at(-1.0)]), BUDGET, 3) == []
    assert cover([candidate(fix(0.1), 0.0)], Experts([best_at(-1.0)]), BUDGET, 3) == []
    assert len(cover(KNOWN, Experts([]), BUDGET, 3)) == 3


def test_an_expert_for_which_everything_diverged_does_no_harm():
    lost = Source("lost", 0.8, Surface(np.zeros((3, 16)), np.full(3, np.nan)))
    first, *_ = chosen_decades([lost, best_at(-1.0)], 2)
    assert first == pytest.approx(-1, abs=0.5)

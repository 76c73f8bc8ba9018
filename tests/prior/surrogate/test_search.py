"""The next policy: laws that hold for any results, and searches on a made-up task."""

import dataclasses
import itertools

import numpy as np
import pytest

from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.features import BLOCKS
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.surrogate import Candidate, Observations, Source, Surface, Surrogate
from lrbench_hpo.prior.surrogate.candidates import Pool

NOBODY = np.zeros((0, BLOCKS))
SHIFTS = ((-0.6, 0.1), (-0.3, 0.2), (0.0, 0.4), (0.3, 0.2), (0.6, 0.1))
NAN = float("nan")
EXPLORING = [5, 12, 19, 26]


def surrogate(world, sources=(), **options):
    return Surrogate(world.space, world.scale, sources, **options)


@pytest.fixture(scope="module")
def warm(world):
    return surrogate(world, [world.source(0.3, shifts=SHIFTS)])


@pytest.fixture(scope="module")
def seen(world):
    return world.seen(world.drawn(8, seed=11))


def test_the_same_seed_and_number_give_the_same_suggestion(world, seen):
    def suggested(seed, number):
        return surrogate(world, [world.source()], seed=seed).suggest(seen, NOBODY, number)

    assert suggested(1, 9) == suggested(1, 9)
    assert suggested(1, 9).candidate != suggested(1, 10).candidate
    assert suggested(1, 9).candidate != suggested(2, 9).candidate


def test_a_suggestion_does_not_depend_on_those_before_it(world, warm, seen):
    fresh = surrogate(world, [world.source(0.3, shifts=SHIFTS)])
    for number in (3, 20, 4):
        warm.suggest(world.nothing_seen, NOBODY, number)
    assert warm.suggest(seen, NOBODY, 9) == fresh.suggest(seen, NOBODY, 9)


@pytest.mark.parametrize("with_prior", [True, False])
@pytest.mark.parametrize("with_results", [True, False])
def test_trials_asked_for_at_once_get_different_policies(world, seen, with_prior, with_results):
    asked = surrogate(world, [world.source()] if with_prior else [])
    history = seen if with_results else world.nothing_seen
    policies = [asked.suggest(history, NOBODY, number).candidate.policy for number in range(30)]
    assert all(left != right for left, right in itertools.pairwise(policies))
    assert len(set(policies)) >= 4


def test_every_suggestion_lies_in_the_space(world, warm, seen):
    for number in range(20):
        chosen = warm.suggest(seen, NOBODY, number).candidate
        assert world.space.clip(chosen.function, chosen.point)[1] == []


def test_a_pending_policy_is_not_suggested_again(world, warm, seen):
    first = warm.suggest(seen, NOBODY, 8)
    tried = world.curve(first.candidate)
    second = warm.suggest(seen, tried, 8)
    assert second.candidate != first.candidate
    assert np.sqrt(((world.curve(second.candidate) - tried) ** 2).mean()) > 0.03


def test_what_was_tried_is_not_tried_again(world):
    cold, pool = surrogate(world), world.drawn(4, seed=2)
    for number in range(12):
        seen = world.seen(pool, np.full(len(pool.candidates), 0.5))
        chosen = cold.suggest(seen, NOBODY, number).candidate
        assert chosen.policy not in [entry.policy for entry in pool.candidates]
        pool += Pool.of([chosen], world.scale.max_iterations)


def test_known_good_policies_are_always_among_the_candidates(world):
    sources = [world.source(shifts=SHIFTS)]
    plain = surrogate(world, sources)
    first = max(
        (plain.suggest(world.nothing_seen, NOBODY, number) for number in range(4)),
        key=lambda told: (1 - told.risk) * np.exp(told.mean - told.spread),
    )
    asked = surrogate(world, sources, known=[first.candidate])
    found = [asked.suggest(world.nothing_seen, NOBODY, number).candidate for number in range(4)]
    assert found.count(first.candidate) >= 2


def test_exploration_heeds_no_similar_task_and_comes_at_known_numbers(warm, seen):
    for number in range(28):
        told = warm.suggest(seen, NOBODY, number)
        assert told.source == ("exploration" if number in EXPLORING else "surrogate")
        assert (told.prior_weight == 0) == (number in EXPLORING)
        assert sum(e["weight"] for e in told.experts) == pytest.approx(told.prior_weight)


def test_a_suggestion_names_the_tasks_once_the_most_believed_first(world, seen):
    sources = [
        world.source(upside_down=True, name="wrong", shifts=SHIFTS),
        world.source(name="right", shifts=SHIFTS),
    ]
    told = surrogate(world, sources).suggest(seen, NOBODY, 0)
    assert [entry["task"] for entry in told.experts] == ["right", "wrong"]
    assert told.experts[0]["similarity"] == 0.8


def test_what_it_expects_is_said_in_the_studys_values(world, warm, seen):
    before = warm.suggest(world.nothing_seen, NOBODY, 1)
    assert (before.expected_score, before.low, before.chance) == (None, None, None)
    told = warm.suggest(seen, NOBODY, 1)
    assert told.low < told.expected_score < told.high
    best = np.nanmax(seen.values)
    assert (told.expected_score < best) == (told.mean < 0)
    assert (told.chance > 0.5) == (told.mean > 0)
    regret = -np.log1p((best - told.expected_score) / warm.unit)
    assert regret == pytest.approx(told.mean)
    assert 0 <= told.risk <= 1
    assert told.spread > 0


def test_what_it_expects_comes_true(world):
    """A standard deviation to both sides holds about two thirds of the scores."""
    warm, inside = surrogate(world, [world.source(shifts=SHIFTS)]), []
    pool = world.drawn(12, seed=21)
    pool = Pool([pool.candidates[i] for i in range(12)], pool.features)
    for number in range(15):
        told = warm.suggest(world.seen(pool), NOBODY, number)
        score = world.score(world.curve(told.candidate))[0]
        inside.append(told.low - 0.02 <= score <= told.high + 0.02)
    assert sum(inside) >= 8


@pytest.mark.parametrize("with_prior", [True, False])
def test_divergence_is_learnt(world, with_prior):
    """High LRs that did well lead there; that diverged, away."""
    asked = surrogate(world, [world.source(shifts=SHIFTS)] if with_prior else [])
    pool = world.drawn(400, seed=4)
    high = np.flatnonzero(np.isnan(world.score(pool.features)))[:12]
    several = Pool([pool.candidates[i] for i in high], pool.features[high]) + world.drawn(6, 13)
    lost, fine = world.seen(several), world.seen(several)
    fine = dataclasses.replace(fine, values=np.where(np.isnan(fine.values), 0.99, 0.1))
    for number in (8, 9, 10):
        away, there = (asked.suggest(seen, NOBODY, number) for seen in (lost, fine))
        assert world.curve(away.candidate).max() < 0.3 < world.curve(there.candidate).max()
        assert away.risk < 0.3


def test_suggestions_move_away_from_where_trials_diverged(world):
    first = (cold := surrogate(world)).suggest(world.nothing_seen, NOBODY, 0)
    curve = world.curve(first.candidate)
    lost = Observations(curve, np.array([NAN]), np.zeros(1), [("FIX", {"peak": 1.0})], [0])
    second = cold.suggest(lost, NOBODY, 4)  # of the same part of the pool
    assert np.sqrt(((world.curve(second.candidate) - curve) ** 2).mean()) > 0.3


@pytest.fixture
def two(world):
    """A search with two candidates, FIX at 0.1 and at 1.0, and their curves."""
    low, high = (
        Candidate("FIX", {"peak": peak}, LRPolicy("FIX", k0=peak / 10)) for peak in (1.0, 10.0)
    )
    asked = surrogate(world_of_one(world, high), known=[low])
    return asked, low, high, world.curve(low), world.curve(high)


def observed(*results):
    """Results of curves that belong to no function of the space."""
    curves, values = zip(*results, strict=True)
    count = len(values)
    points = [("none", {})] * count
    return Observations(np.vstack(curves), np.array(values), np.zeros(count), points, range(count))


def test_the_best_is_not_repeated_where_something_else_is_left(two):
    asked, low, high, at_low, at_high = two
    around = [(at_high + step, 0.1) for step in (-0.2, -0.15, 0.15, 0.2)]
    untried = observed((at_low + 0.15, 0.9), (at_low - 0.15, 0.9), *around)
    tried = observed((at_low, 0.9), *around)
    for number in range(4):
        assert asked.suggest(untried, NOBODY, number).candidate == low
        assert asked.suggest(tried, NOBODY, number).candidate == high


def test_a_pending_policy_leaves_room_for_others(two):
    asked, low, high, at_low, at_high = two
    seen = observed((at_low + 0.15, 0.9), (at_low - 0.15, 0.9), (at_high + 0.15, 0.895))
    assert asked.suggest(seen, NOBODY, 1).candidate == low
    assert asked.suggest(seen, at_low, 1).candidate == high
    assert asked.suggest(seen, at_low + 0.02, 1).candidate == high
    assert asked.suggest(seen, at_high, 1).candidate == low


def test_what_often_diverges_is_avoided_though_it_is_as_good_on_the_whole(two):
    asked, low, high, at_low, at_high = two
    steps = (-0.1, -0.05, 0.05, 0.1)
    good_or_lost = zip(steps, (0.9, NAN, NAN, 0.9), strict=True)
    at_best = [(at_low + step, value) for step, value in good_or_lost]
    fair = [(at_high + step, 0.88) for step in steps]
    told = asked.suggest(observed(*at_best, *fair), NOBODY, 5)
    assert told.candidate == high
    never_lost = [(at_low + step, 0.9) for step in steps]
    assert asked.suggest(observed(*never_lost, *fair), NOBODY, 5).candidate == low


def test_a_diverged_trial_is_worse_than_the_worst_that_ended(world, two):
    _, low, _, at_low, at_high = two
    only = surrogate(world_of_one(world, low))
    means = [
        only.suggest(observed((at_high, 0.9), (at_high + 1, 0.5), (at_low, end)), NOBODY, 0).mean
        for end in (0.5, NAN)
    ]
    assert means[1] < means[0] - 0.4


def test_where_similar_tasks_disagree_it_is_less_sure(world, two):
    _, low, _, _, at_high = two
    agreeing = [world.source(name="a"), world.source(name="b")]
    disagreeing = [world.source(name="a"), world.source(name="b", upside_down=True)]
    for results in (world.nothing_seen, observed((at_high, 0.5))):
        spreads = [
            surrogate(world_of_one(world, low), both).suggest(results, NOBODY, 0).spread
            for both in (agreeing, disagreeing)
        ]
        assert spreads[1] > spreads[0] + 0.1


def test_risk_rises_near_diverged_trials(world, warm):
    """The same policy, asked about with and without diverged neighbours."""
    fine = world.drawn(6, seed=13)
    known = warm.suggest(world.seen(fine), NOBODY, 1)
    curve = world.curve(known.candidate)
    around = np.vstack([curve + 0.15, curve - 0.15])
    history = world.seen(fine)
    lost = Observations(
        np.vstack([history.features, around]),
        np.append(history.values, [NAN, NAN]),
        np.zeros(8),
        [*history.points, ("FIX", {"peak": 1.0}), ("FIX", {"peak": 1.0})],
        list(range(100, 108)),
    )
    only = surrogate(world_of_one(world, known.candidate))
    risks = [only.suggest(each, NOBODY, 1).risk for each in (world.seen(fine), lost)]
    assert risks[1] > risks[0] + 0.2


def world_of_one(world, candidate):
    """A world whose space holds one policy."""
    ranges = world.space.functions[candidate.function]
    small = {
        name: dataclasses.replace(
            entry,
            low=candidate.point.get(name, candidate.point.get("gap1", entry.low)),
            high=candidate.point.get(name, candidate.point.get("gap1", entry.low)),
        )
        for name, entry in ranges.items()
    }
    space = dataclasses.replace(world.space, functions={candidate.function: small})
    return dataclasses.replace(world, space=space)


def _poor_sources():
    def of(features, scores):
        return Source("poor/one", 0.9, Surface(np.array(features, float), np.array(scores, float)))

    one = np.full((1, BLOCKS), -1.0)
    three = np.vstack([one, one - 1, one + 1])
    return {
        "none": [],
        "one row": [of(one, [0.9])],
        "one diverged row": [of(one, [NAN])],
        "only diverged": [of(three, [NAN] * 3)],
        "constant": [of(three, [0.5] * 3)],
        "contradictory": [of(np.vstack([one, one, one]), [0.9, 0.1, NAN])],
        "1,000 times the LRs": [of(three + 3, [0.9, 0.8, NAN])],
        "a thousandth of the LRs": [of(three - 3, [0.9, 0.8, NAN])],
        "twice the same": [of(three, [0.9, 0.8, 0.7])] * 2,
    }


@pytest.mark.parametrize("name", _poor_sources())
@pytest.mark.parametrize("results", ["none", "good", "constant", "diverged", "no numbers"])
@pytest.mark.filterwarnings("error")
def test_poor_sources_and_results_do_no_harm(world, name, results):
    asked = surrogate(world, _poor_sources()[name])
    pool = world.drawn(3)
    values = {
        "good": np.array([0.9, 0.5, 0.7]),
        "constant": np.full(3, 0.5),
        "diverged": np.full(3, NAN),
        "no numbers": np.array([np.inf, -np.inf, 0.5]),
    }
    seen = world.seen(pool, values[results]) if results in values else world.nothing_seen
    for number in (0, 5):
        told = asked.suggest(seen, NOBODY, number)
        assert world.space.clip(told.candidate.function, told.candidate.point)[1] == []
        for figure in (told.mean, told.spread, told.risk, told.prior_weight):
            assert np.isfinite(figure)
        assert 0 <= told.risk <= 1
        assert 0 <= told.prior_weight < 1


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_budget_of_one_iteration_is_enough(world, budget):
    space = load_space("default").within(budget)
    asked = Surrogate(space, Scale(budget, 0.1), [world.source()])
    found = {asked.suggest(world.nothing_seen, NOBODY, n).candidate.policy for n in range(6)}
    assert len(found) == 6


def test_another_function_is_no_reason_to_forget(world):
    """A result of one function teaches about the same curve of another."""
    only = Surrogate(world.space.restricted(["POLY"]), world.scale)
    pool = Pool.of(
        [c for c in world.drawn(300).candidates if c.function != "POLY"][:40],
        world.scale.max_iterations,
    )
    scores = [
        np.nan_to_num(world.score(world.curve(only.suggest(history, NOBODY, n).candidate))[0])
        for history in (world.seen(pool), world.nothing_seen)
        for n in range(4)
    ]
    assert min(scores[:4]) > 0.85
    assert min(scores[4:]) < 0.85


def trials_to(world, sources, seeds, trials, share=0.05):
    """The number of the first trial in the top share, for each seed."""
    found = []
    for seed in range(seeds):
        scores, _ = world.search(surrogate(world, sources, seed=seed), trials)
        good = np.flatnonzero(np.nan_to_num(scores, nan=0.0) >= world.top(share))
        found.append(int(good[0]) + 1 if good.size else trials + 1)
    return found


def test_a_similar_task_at_another_scale_leads_to_the_top_within_five_trials(world):
    found = trials_to(world, [world.source(0.3, shifts=SHIFTS)], 10, 5)
    assert sum(number <= 5 for number in found) >= 9
    assert np.median(found) <= 3


def test_without_a_similar_task_it_takes_longer_but_gets_there(world):
    found = trials_to(world, [], 10, 25)
    assert sum(number <= 25 for number in found) >= 9
    assert np.median(found) > 3


def test_an_upside_down_task_delays_and_does_not_prevent(world):
    found = trials_to(world, [world.source(upside_down=True, shifts=SHIFTS)], 10, 25)
    assert sum(number <= 25 for number in found) >= 9


def test_an_upside_down_task_is_dropped_during_the_search(world):
    asked = surrogate(world, [world.source(upside_down=True)])
    _, tried = world.search(asked, 16)
    assert tried[0].prior_weight == pytest.approx(0.85)
    assert tried[15].prior_weight < 0.1

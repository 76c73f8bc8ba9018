"""What the database says about a task."""

import dataclasses

import numpy as np
import pytest

from lrbench_hpo import LRPolicy, Run, connect, recommend
from lrbench_hpo.errors import DatabaseError, LRBenchError, RecordError, UnknownNameError
from lrbench_hpo.policies import ALL_FUNCTIONS
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.tasks import recipe_for, task_for
from lrbench_hpo.study.policy_search import Start

PAPERS_BEST = [
    LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000),
    LRPolicy("TRIEXP", k0=1e-4, k1=0.9, gamma=0.99994, l=2000),
]


@pytest.fixture
def database():
    with connect("sqlite://") as db:
        yield db


def own(policy, top1, *, dataset="digits", model="mlp", budget=300, optimizer=None, **changes):
    recipe = recipe_for(dataset, model, optimizer=optimizer) if optimizer else None
    task = task_for(dataset, model, recipe, details={"reference_lr": 0.01})
    metrics = {"top1": top1, "iterations_to_best": budget, "loss_difference": 0.0}
    return Run(task, policy, budget, seed=0, metrics=metrics, **changes)


def test_the_papers_best_come_first(database):
    found = recommend("cifar10", "resnet32", database=database)
    assert [entry.policy for entry in found[:2]] == PAPERS_BEST
    assert found[0].origin == "published"
    assert "Table IX" in found[0].why
    assert found[0].choice.evidence[0].run.policy == PAPERS_BEST[0]


def test_points_are_scaled_to_the_budget(database):
    first = recommend("cifar10", "resnet32", database=database, max_iterations=32_000)[0].policy
    assert first == LRPolicy("SINEXP", k0=1e-4, k1=0.9, gamma=first.gamma, l=1000)
    assert first.gamma**32_000 == pytest.approx(0.99994**64_000)


def test_far_shorter_budgets_keep_the_peak_and_fall_once(database):
    found = recommend("mnist", "lenet", database=database, max_iterations=300)
    peak, higher, *others = (entry.policy for entry in found)
    assert peak == LRPolicy("COS", k0=3e-4, k1=0.06, l=300)
    assert higher == LRPolicy("COS", k0=6e-4, k1=0.12, l=300)
    assert found[0].source == "peak published for MNIST/LeNet (Table VII)"
    assert found[0].why.startswith(f"{found[0].source}: 99.")
    assert found[0].why.endswith("; falling once over this far shorter budget")
    assert found[1].why.endswith("; 2 times as high, falling once over this far shorter budget")
    # The papers' own shapes stay on the list behind them.
    assert {"SINEXP", "TRIEXP"} <= {policy.function for policy in others}
    assert [entry.bracketed for entry in found] == [True, True, False, False, False]


def test_a_higher_peak_that_diverged_here_is_not_tried_again(database):
    higher = recommend("mnist", "lenet", database=database, max_iterations=300)[1].policy
    run = own(higher, 0.1, dataset="mnist", model="lenet", status="diverged")
    database.add(run)
    found = recommend("mnist", "lenet", database=database, max_iterations=300)
    assert found[0].bracketed
    assert higher not in {entry.policy for entry in found}


def test_far_longer_runs_of_ones_own_are_annealed_too(database):
    runs = [
        own(
            LRPolicy("STEP", k0=0.02 * 1.1**n, gamma=0.5, l=3_000),
            0.97 - 0.005 * abs(n - 20),
            budget=10_000,
        )
        for n in range(40)
    ]
    database.add(*runs)
    for budget in (300, 1_000):
        prior = Question("digits", "mlp", database=database, max_iterations=budget).prior()
        assert prior.known[0].rich
        marks = [entry.bracketed for entry in prior.portfolio]
        assert marks[:2] == [True, True]
        assert not any(marks[2:])
        low, high = (entry.policy.bounds[1] for entry in prior.portfolio[:2])
        assert high == pytest.approx(2 * low)
        assert Start.of(prior).rows == 2
    like = Question("digits", "mlp", database=database, max_iterations=9_000).prior()
    assert not any(entry.bracketed for entry in like.portfolio)
    assert Start.of(like).rows == 1


def test_annealed_runs_are_evidence_for_nothing_else(database, monkeypatch):
    def without_annealed():
        found = recommend("cifar10", "mlp", 12, database=database, max_iterations=250)
        shapes = [entry for entry in found if not entry.bracketed]
        return {entry.policy: entry.choice.value for entry in shapes}

    shown = without_annealed()
    monkeypatch.setattr("lrbench_hpo.prior.transfer.far_shorter", lambda *budgets: False)
    alone = without_annealed()
    assert shown
    assert all(
        alone[policy] == pytest.approx(worth) for policy, worth in shown.items() if policy in alone
    )
    assert len(shown.keys() & alone.keys()) > 5
    # And no run counts twice for one policy.
    for entry in recommend("mnist", "lenet", database=database, max_iterations=300):
        runs = [candidate.run.uid for candidate in entry.choice.evidence]
        assert len(runs) == len(set(runs))


def test_no_higher_peak_where_the_space_ends(database):
    found = recommend("cifar10", "resnet32", database=database, max_iterations=2_000)
    assert found[0].policy == LRPolicy("POLY", k0=0.9, p=1.0, l=2_000)
    assert [entry.bracketed for entry in found] == [True, False, False, False, False]
    assert len(recommend("mnist", "lenet", 1, database=database, max_iterations=300)) == 1


def test_own_results_at_a_like_budget_come_before_annealed_ones(database):
    best = LRPolicy("EXP", k0=0.03, gamma=0.99)
    worse = [LRPolicy("FIX", k0=k0) for k0 in (0.001, 0.002, 0.003)]
    runs = [
        own(best, 0.98, model="lenet", dataset="mnist"),
        *(own(p, 0.6, model="lenet", dataset="mnist") for p in worse),
    ]
    database.add(*runs)
    assert recommend("mnist", "lenet", database=database, max_iterations=300)[0].policy == best


def test_points_are_scaled_to_the_batch(database):
    first = recommend("cifar10", "resnet32", database=database, batch_size=64)[0].policy
    assert first.k1 == pytest.approx(0.9 / 2**0.5, rel=1e-4)  # the rule says half, LRs may stay
    given = recommend("cifar10", "resnet32", database=database, reference_lr=0.2)[0].policy
    assert given.k1 == pytest.approx(1.8)


def test_another_kind_of_optimizer_has_its_own_lrs(database):
    prior = Question("cifar10", "resnet32", database=database, optimizer="adam").prior()
    assert prior.scale.reference_lr == 0.001
    assert prior.portfolio[0].policy.k1 == pytest.approx(0.009)


def test_the_most_similar_task_serves_where_the_same_is_unknown(database):
    prior = Question("digits", "lenet", database=database).prior()
    assert {known.task.dataset for known in prior.known} == {"MNIST"}
    assert prior.scale.reference_lr == 0.01
    assert all(entry.origin == "published" for entry in prior.portfolio)
    assert "85 % similar" in prior.portfolio[0].why


def test_where_nothing_is_similar_it_says_so(database):
    prior = Question("audio", "transformer", database=database, optimizer="adamw").prior()
    assert prior.known == ()
    assert "nothing similar to audio/transformer is known" in prior.summary
    assert {entry.origin for entry in prior.portfolio} == {"default"}
    assert len({entry.policy for entry in prior.portfolio}) == 5


def test_own_results_come_before_published_ones(database):
    best = LRPolicy("EXP", k0=0.05, gamma=0.99)
    worse = [LRPolicy("FIX", k0=k0) for k0 in (0.001, 0.002, 0.003)]
    database.add(own(best, 0.98), *(own(policy, 0.6) for policy in worse))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.portfolio[0].policy == best
    assert prior.portfolio[0].origin == "own"
    assert "1 of your own results" in prior.summary
    assert not {entry.policy for entry in prior.portfolio} & set(worse)
    assert any(entry.origin == "published" for entry in prior.portfolio)


def test_a_single_own_run_is_no_proof(database):
    database.add(own(LRPolicy("FIX", k0=1e-3), 0.5, dataset="mnist", model="lenet", budget=10_000))
    prior = Question("mnist", "lenet", database=database).prior()
    assert prior.portfolio[0].origin == "published"


def test_own_results_at_chance_are_not_known_good(database):
    runs = [own(LRPolicy("FIX", k0=k0), 0.11) for k0 in (1.0, 2.0, 3.0, 4.0)]
    database.add(*runs)
    found = recommend("digits", "mlp", database=database, max_iterations=300)
    assert not {entry.policy for entry in found} & {run.policy for run in runs}


def test_a_reference_lr_that_led_nowhere_is_forgotten(database):
    task = task_for("digits", "lenet", details={"reference_lr": 30.0})
    run = own(LRPolicy("FIX", k0=30.0), None)
    failed = dataclasses.replace(run, task=task, status="diverged", metrics={})
    chance = dataclasses.replace(run, task=task, metrics={"top1": 0.1})
    database.add(failed, chance)
    assert Question("digits", "lenet", database=database).prior().scale.reference_lr == 0.01


def test_the_best_of_ones_own_constant_lrs_becomes_the_reference(database):
    for k0, top1 in [(0.01, 0.8), (0.1, 0.95), (1.0, 0.5)]:
        database.add(own(LRPolicy("FIX", k0=k0), top1))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.scale.reference_lr == 0.1
    assert "best of the constant LRs" in prior.reference_origin


def test_own_results_keep_their_absolute_lrs_whatever_the_reference(database):
    runs = []
    for eta, k0, top1 in [(0.01, 0.01, 0.95), (0.02, 0.03, 0.5), (0.03, 0.09, 0.4)]:
        task = task_for("digits", "mlp", details={"reference_lr": eta})
        runs.append(dataclasses.replace(own(LRPolicy("EXP", k0=k0, gamma=0.99), top1), task=task))
    database.add(*runs)
    prior = Question(
        "digits", "mlp", database=database, max_iterations=300, reference_lr=0.02
    ).prior()
    assert prior.portfolio[0].policy == runs[0].policy
    assert len([known for known in prior.known if not known.published]) == 1


def test_runs_of_a_nearer_budget_say_more(database):
    near, far = LRPolicy("EXP", k0=0.05, gamma=0.99), LRPolicy("INV", k0=0.9, gamma=1e-4, p=1)
    database.add(own(far, 0.9, budget=60_000), own(near, 0.9, budget=300))
    [first, *_] = recommend("digits", "mlp", database=database, max_iterations=300)
    assert first.policy == near


def test_reference_lr_in_the_task_is_heeded(database):
    prior = Question("mnist", "lenet", database=database, task={"reference_lr": 0.3}).prior()
    assert (prior.scale.reference_lr, prior.reference_origin) == (0.3, "given")
    assert "LRs times 30" in prior.portfolio[0].why


def test_a_batch_size_in_the_task_changes_the_budget(database):
    small = Question("kmnist", "mlp", database=database, task={"batch_size": 1_000}).prior()
    assert small.scale.max_iterations == recipe_for("kmnist", "mlp", batch_size=1000).max_iterations


@pytest.mark.parametrize("status", ["pruned", "failed"])
def test_runs_that_did_not_end_by_themselves_disprove_nothing(database, status):
    first = recommend("mnist", "lenet", database=database)[0].policy
    for seed in range(3):
        run = own(first, 0.5, dataset="mnist", model="lenet", budget=10_000, status=status)
        database.add(dataclasses.replace(run, seed=seed))
    assert recommend("mnist", "lenet", database=database)[0].policy == first


def test_functions_that_nothing_is_known_of_get_defaults_and_say_so(database):
    prior = Question("cifar10", "resnet32", database=database, functions=["UPCOS", "SIG"]).prior()
    assert [entry.origin for entry in prior.portfolio] == ["default", "default"]
    assert "none of the known policies fits" in prior.portfolio[0].why
    assert "2 common defaults" in prior.summary


def test_an_own_divergence_takes_a_published_policy_off_the_list(database):
    budget = 10_000
    first = recommend("mnist", "lenet", database=database)[0].policy
    for seed in range(2):
        failed = own(first, None, dataset="mnist", model="lenet", budget=budget, status="diverged")
        database.add(dataclasses.replace(failed, metrics={}, seed=seed))
    assert first not in [entry.policy for entry in recommend("mnist", "lenet", database=database)]


def test_test_split_results_of_ones_own_are_no_evidence(database):
    known = [
        own(LRPolicy("EXP", k0=k0, gamma=0.99), top1) for k0, top1 in [(0.1, 0.9), (0.2, 0.89)]
    ]
    database.add(*known, own(LRPolicy("FIX", k0=0.02), 0.99, split="test"))
    found = recommend("digits", "mlp", database=database, max_iterations=300)
    assert LRPolicy("FIX", k0=0.02) not in [entry.policy for entry in found]
    assert found[0].policy == known[0].policy


@pytest.mark.parametrize("function", ALL_FUNCTIONS)
def test_any_function_can_be_asked_for_alone(database, function):
    prior = Question("cifar10", "resnet32", database=database, functions=[function]).prior()
    assert {entry.policy.function for entry in prior.portfolio} == {function}


@pytest.mark.parametrize("dataset", ["mnist", "digits", "cifar10", "cifar100", "flowers"])
@pytest.mark.parametrize("budget", [1, 3, 50, 1_000, 500_000])
def test_every_budget_gets_usable_policies_within_the_space(database, dataset, budget):
    prior = Question(dataset, "resnet20", database=database, max_iterations=budget).prior()
    for entry in prior.portfolio:
        assert np.isfinite(entry.policy(np.arange(min(budget, 1_000)))).all()
        function = entry.policy.function
        assert prior.space.clip(function, entry.point)[1] == []


def test_recommendations_are_json(database):
    import json

    [data] = json.loads(
        json.dumps([r.to_dict() for r in recommend("mnist", "lenet", 1, database=database)])
    )
    assert data["evidence"][0]["notes"]["table"] == "VII"
    assert LRPolicy.from_dict(data["policy"])


def test_a_database_of_diverged_rows_only_still_answers(tmp_path):
    with connect(tmp_path / "lr.db") as db:
        failed = [
            dataclasses.replace(
                own(LRPolicy("FIX", k0=1 + seed), None, dataset="audio", model="net"),
                status="diverged",
                metrics={},
            )
            for seed in range(5)
        ]
        db.add(*failed)
        prior = Question("audio", "net", database=db, max_iterations=300).prior()
        assert len(prior.portfolio) == 5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"n": 0}, RecordError),
        ({"max_iterations": 0}, RecordError),
        ({"optimizer": "sdg"}, UnknownNameError),
        ({"functions": ["SINNEXP"]}, UnknownNameError),
        ({"reference_lr": -1.0}, LRBenchError),
        ({"reference_lr": "fast"}, RecordError),
        ({"search_space": "nowhere.yaml"}, LRBenchError),
        ({"database": "mongodb://x"}, DatabaseError),
        ({"task": {"num_classes": -3}}, RecordError),
    ],
)
def test_bad_input_is_one_line(arguments, error, database):
    with pytest.raises(error) as caught:
        recommend("mnist", "lenet", **{"database": database, **arguments})
    assert "\n" not in str(caught.value)


def test_the_space_may_be_ones_own(database):
    space = load_space("default").restricted(["POLY"])
    found = recommend("mnist", "lenet", database=database, search_space=space)
    assert {entry.policy.function for entry in found} == {"POLY"}
    assert recipe_for("mnist", "lenet").max_iterations == found[0].policy.l


def from_others(database):
    """A database in which a team's member claims too much for a hopeless policy."""
    honest = own(LRPolicy("TRI", k0=1e-3, k1=0.1, l=50), 0.95, source="ann")
    wrong = own(LRPolicy("FIX", k0=5e-5), 0.9999, source="bad")
    database.add(honest, wrong)
    return honest, wrong


def test_only_trusted_sources_count(database):
    honest, wrong = from_others(database)
    policies = lambda **said: [  # noqa: E731
        entry.choice.candidate.run.policy
        for entry in recommend("digits", "mlp", database=database, max_iterations=300, **said)
        if entry.choice
    ]
    assert {honest.policy, wrong.policy} <= set(policies())
    assert policies(trusted_sources=["ann"]) == [honest.policy]
    with_papers = policies(trusted_sources=("ann", "lrbench-paper"))
    assert honest.policy in with_papers
    assert wrong.policy not in with_papers
    assert len(with_papers) > 1
    assert policies(trusted_sources=["local"]) == []  # one's own, of which there are none yet


def test_a_source_that_nobody_knows_is_refused(database):
    from_others(database)
    for sources, said in [
        (["an"], "unknown source 'an': did you mean ann?"),
        ("ann", "trusted_sources='ann': expected a list of sources"),
        (5, "trusted_sources=5: expected a list of sources"),
        ([None], "trusted_sources=None: expected text"),
    ]:
        with pytest.raises(LRBenchError) as told:
            recommend("digits", "mlp", database=database, trusted_sources=sources)
        assert str(told.value).startswith(said)
        assert "\n" not in str(told.value)


def test_a_row_that_breaks_a_rule_does_not_stop_the_prior(database):
    honest, wrong = from_others(database)
    with database._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE lrbench_runs SET metrics = '{' WHERE source = 'bad'")
    with pytest.warns(UserWarning, match="breaks a rule"):
        found = recommend("digits", "mlp", database=database, max_iterations=300)
    assert found[0].choice.candidate.run.policy == honest.policy
    assert wrong.policy not in {entry.choice.candidate.run.policy for entry in found}


def test_evidence_is_named_by_the_uid_of_the_whole_run(database):
    (run, _) = from_others(database)
    entries = recommend("digits", "mlp", database=database, trusted_sources=["ann"])
    assert entries[0].to_dict()["evidence"][0]["run"] == run.uid


def test_a_published_space_is_everybodys_own_copy():
    load_space("default").functions["TRI"].clear()
    assert load_space("default").functions["TRI"]


def test_others_runs_are_not_called_ones_own(database, monkeypatch):
    monkeypatch.delenv("LRBENCH_SOURCE", raising=False)
    from_others(database)
    database.add(own(LRPolicy("COS", k0=1e-3, k1=0.1, l=300), 0.93))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    by_source = {e.choice.candidate.run.source: e for e in prior.portfolio}
    assert by_source["local"].origin == "own"
    assert by_source["local"].source.startswith("your own run on digits/mlp")
    assert by_source["ann"].origin == "shared"
    assert by_source["ann"].source == "ann's run on digits/mlp"
    assert prior.summary.startswith("starting from 1 of your own results, ")
    assert "results of others" in prior.summary
    monkeypatch.setenv("LRBENCH_SOURCE", "ann")
    again = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert {e.origin for e in again.portfolio if e.choice.candidate.run.source == "ann"} == {"own"}


def many(dataset="mnist", *, best=0.1, count=40, model="mlp", **changes):
    """So many runs from 1 decade below the best LR to 1 above, on a task with a lower budget."""
    lrs = [best * 10 ** (2 * n / (count - 1) - 1) for n in range(count)]
    return [
        own(
            LRPolicy("FIX", k0=lr),
            0.95 - 0.4 * abs(n - count // 2) / count,
            dataset=dataset,
            model=model,
            **changes,
        )
        for n, lr in enumerate(lrs)
    ]


def test_a_task_with_a_whole_response_surface_gives_the_list_and_the_scale(database):
    database.add(*many(best=0.05))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.known[0].rich
    assert prior.scale.reference_lr == pytest.approx(0.05, rel=0.5)
    first, *others = (entry.policy.k0 for entry in prior.portfolio)
    assert first == pytest.approx(0.05, rel=0.6)
    # The scale may differ on this task: the list goes through it, and holds no near-copies.
    assert min(others) < 0.6 * first < 1.6 * first < max(others)
    assert len({entry.policy for entry in prior.portfolio}) == 5


def test_a_few_runs_are_chosen_among_as_before(database):
    database.add(*many(count=20))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert not prior.known[0].rich
    assert prior.portfolio[0].policy.k0 == pytest.approx(0.1, rel=0.3)


def test_own_results_on_the_task_itself_stay_where_they_were_measured(database):
    database.add(*many("digits", best=0.02))
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.known[0].similarity == 1
    own_rows = [entry for entry in prior.portfolio if entry.origin == "own"]
    for entry in own_rows:
        assert entry.policy.k0 == pytest.approx(entry.choice.candidate.run.policy.k0)
    assert own_rows[0].policy.k0 == pytest.approx(0.02, rel=0.3)


def test_the_surrogate_is_told_of_tasks_that_are_not_similar_too(database):
    database.add(*many())
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    names = [source.name for source in prior.sources]
    assert names[0] == "mnist/mlp"
    assert len(names) >= len(prior.known)
    alike = [source.similarity for source in prior.sources]
    assert alike == sorted(alike, reverse=True)
    for source in prior.sources:
        assert sum(share for _, share in source.shifts) == pytest.approx(1)


def test_where_only_shapes_are_known_they_come_at_the_scale_that_was_measured(database):
    said = {"database": database, "optimizer": "adamw", "max_iterations": 300}
    blind = Question("svhn", "transformer", **said).prior()
    assert {entry.origin for entry in blind.portfolio} == {"default"}
    assert blind.needs_range_test
    measured = Question("svhn", "transformer", **said, reference_lr=0.002).prior()
    assert not measured.needs_range_test
    assert {entry.origin for entry in measured.portfolio} == {"published"}
    shapes = f"the shapes of {len(measured.portfolio)} policies that are good elsewhere"
    assert measured.summary.endswith(shapes)
    for entry in measured.portfolio:
        assert entry.policy.bounds[1] == pytest.approx(0.002 * entry.point["peak"], rel=1e-3)


def test_a_task_with_lrs_a_thousand_times_larger_is_read_in_its_own_scale(database):
    database.add(*many(best=0.01, optimizer="adam"))
    said = {"database": database, "max_iterations": 300, "optimizer": "adam"}
    near, far = (
        Question("digits", "mlp", **said, reference_lr=lr).prior().portfolio for lr in (0.01, 10.0)
    )
    assert far[0].policy.bounds[1] == pytest.approx(10, rel=0.6)
    assert near[0].policy.bounds[1] == pytest.approx(0.01, rel=0.6)


@pytest.mark.parametrize("scores", [[0.9], [0.5] * 40, [0.2, 0.95] * 20])
def test_one_row_constant_scores_and_contradictions_still_give_a_list(database, scores):
    database.add(
        *(
            dataclasses.replace(own(LRPolicy("FIX", k0=0.05), score), seed=seed)
            for seed, score in enumerate(scores)
        )
    )
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.portfolio
    assert 0.005 < prior.scale.reference_lr < 0.5
    assert all(np.isfinite(entry.choice.value) for entry in prior.portfolio if entry.choice)


@pytest.mark.parametrize("status", ["diverged", "complete"])
def test_many_runs_that_led_nowhere_name_no_reference_lr(database, status):
    runs = [own(LRPolicy("FIX", k0=1 + n / 4), 0.1, status="complete") for n in range(40)]
    if status == "diverged":
        runs = [dataclasses.replace(run, status="diverged", metrics={}) for run in runs]
    runs = [
        dataclasses.replace(run, task=dataclasses.replace(run.task, reference_lr=None))
        for run in runs
    ]
    database.add(*runs)
    prior = Question("digits", "mlp", database=database, max_iterations=300).prior()
    assert prior.scale.reference_lr < 1

"""Ray Tune's side of the search: the same study, prior and sampler, behind ask and tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from lrbench_hpo import checks
from lrbench_hpo.errors import StudyError, UnknownNameError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.question import Question
from lrbench_hpo.ray_tune.experiment import (
    MODES,
    agreed,
    criteria,
    flat,
    given_once,
    metric_name,
    mode_name,
    own_domains,
    question_of,
    refuse_wrong_kinds,
    with_levels,
)
from lrbench_hpo.ray_tune.ray_internals import (
    accept_reports_without_metric,
    controller,
    experiment_spec,
    metric_and_mode_of_run,
    refuse_population_based_training,
    refuse_repeater,
)
from lrbench_hpo.ray_tune.saved_searcher import SavedSearcher
from lrbench_hpo.ray_tune.study_trials import StudyTrials
from lrbench_hpo.ray_tune.trial_outcomes import TrialOutcomes
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.reports import TrialOutcome
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import ScoreWeights, score_run
from lrbench_hpo.study.ask_tell import AskTell
from lrbench_hpo.study.create import study_for
from lrbench_hpo.study.points import KnownResult, read_point
from lrbench_hpo.study.settings import OBJECTIVES, StudySettings

SCORE = "score"


class LRBenchSearcher(SavedSearcher):
    """Searches LR policies on Ray Tune: ``tune.run(trainable, search_alg=LRBenchSearcher())``.

    The trainable gets the policy as ``config["lr_policy"]``, a dict of always the same keys for
    `LRPolicy.from_dict`, and the budget as ``config["max_iterations"]``. Domains in your own
    ``config`` (``tune.loguniform`` and its like) are searched along. The search is that of
    `create_study`: with the same seed and one trial at a time it suggests the same policies.

    A trial that a scheduler cuts counts as pruned at the iteration it reached: report
    ``iteration`` (updates so far), so that it is not taken for a finished one. Ray never reports
    the end of trials that ``time_budget_s`` ended: `settle` ends them in the study too.

    With ``population=8`` each of Ray's trials is eight policies that are trained together on one
    GPU or one core: the trainable gets ``config["lr_policies"]``, a list of such dicts, and
    reports ``members``, as `lrbench_hpo.train` does. Each policy is a trial of the study.

    Args:
        dataset: name of the data set; ``config["dataset"]`` when None.
        model: name of the model; ``config["model"]`` when None.
        metric: what trials are compared by; that of ``tune.run``, or ``score``, when None.
        mode: ``max`` or ``min``; that of ``tune.run``, or ``max``, when None.
        max_iterations: budget of a trial, in iterations; ``config["max_iterations"]``, or the
            task's usual one, when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        objective: ``score``, or ``pareto`` for a sampler that weighs the reported ``top1``,
            ``iterations_to_best`` and ``loss_difference``; schedulers still see the metric.
        functions: LR functions to search; those of the paper when None, ``"all"`` for every one.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database, read once at the start;
            ``LRBENCH_DATABASE_URL`` or the user's own when None.
        sampler: any Optuna sampler; `LRBenchSampler` when None.
        score_weights: weights of the score.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known, or its range test.
        trusted_sources: the sources in the LR database whose runs count; all when None.
        seed: of the default sampler.
        points_to_evaluate: policies, or configs with ``lr_policy``, to try before all others.
        population: policies in each of Ray's trials; when None, a trial is one policy.

    Raises:
        LRBenchError: for bad input; what depends on the config, when the experiment starts.
    """

    _metric: str
    _mode: str

    def __init__(
        self,
        dataset: str | None = None,
        model: str | None = None,
        *,
        metric: str | None = None,
        mode: str | None = None,
        max_iterations: int | None = None,
        batch_size: int | None = None,
        optimizer: str | None = None,
        objective: str = SCORE,
        functions: str | Sequence[str] | None = None,
        search_space: str | Path | SearchSpace | None = None,
        database: str | Path | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        score_weights: ScoreWeights | Mapping[str, float] | None = None,
        task: Mapping[str, Any] | None = None,
        reference_lr: float | RangeTest | None = None,
        trusted_sources: Sequence[str] | None = None,
        seed: int | None = None,
        points_to_evaluate: Sequence[LRPolicy | Mapping[str, Any]] | None = None,
        population: int | None = None,
    ) -> None:
        super().__init__(metric_name(metric) or SCORE, mode_name(mode) or "max")
        self._given = {"metric": metric, "mode": mode}
        if objective not in OBJECTIVES:
            raise UnknownNameError.among("objective", objective, OBJECTIVES)
        if database is not None and not isinstance(database, (str, Path)):
            raise StudyError(
                f"database={type(database).__name__}: Ray copies and saves the searcher, and no "
                "connection can be: give the database's URL or file"
            )
        refuse_wrong_kinds(
            dataset=dataset,
            model=model,
            sampler=sampler,
            task=task,
            max_iterations=max_iterations,
            batch_size=batch_size,
            points_to_evaluate=points_to_evaluate,
        )
        self._question = Question(
            dataset or "",
            model or "",
            max_iterations=max_iterations,
            batch_size=batch_size,
            optimizer=optimizer,
            functions=functions,
            search_space=search_space,
            database=database,
            task=task,
            reference_lr=reference_lr,
            trusted_sources=trusted_sources,
        )
        # Given here or in the experiment's config: once is enough.
        weights = None if score_weights is None else ScoreWeights.of(score_weights).to_dict()
        self._shared: dict[str, Any] = {
            "dataset": dataset,
            "model": model,
            "max_iterations": max_iterations,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "score_weights": weights,
        }
        self._objective, self._sampler, self._seed = objective, sampler, seed
        self._points = list(points_to_evaluate or ())
        self._population = None if population is None else checks.whole("population", population)
        self._known: list[KnownResult] = []
        self._trials = None
        self._task: dict[str, Any] = {}
        self._at_once: int | None = None
        self._added: dict[str, Any] = {}
        accept_reports_without_metric()

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the search, in memory; its trials know Ray's ``trial_id``.

        A policy of a population knows its place there too, as ``member``.

        Raises:
            StudyError: before the search has begun, when its task may still come from a config.
        """
        return self._begun().ask_tell.study

    @property
    def settings(self) -> StudySettings:
        """What is searched: task, space, budget, reference LR."""
        return self._begun().ask_tell.settings

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of Ray's trials whose end is not known yet."""
        return () if self._trials is None else self._trials.live

    def number(self, trial_id: str) -> int | None:
        """The number that one of Ray's trials has in the study, if it is of this search."""
        return next(iter(self.numbers(trial_id)), None)

    def numbers(self, trial_id: str) -> tuple[int, ...]:
        """The numbers that the policies of one of Ray's trials have in the study, in order."""
        return () if self._trials is None else self._trials.numbers(trial_id)

    @property
    def recalled(self) -> list[int]:
        """The numbers of the trials that a result of `recall` has ended."""
        return [] if self._trials is None else self._trials.recalled

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take metric, mode, data set, model and own domains from an experiment (called by Ray).

        Raises:
            StudyError: for a config that has a policy already, or contradicts the searcher.
        """
        own = own_domains(config, population=self._population is not None)
        metric, mode = metric_name(metric), mode_name(mode)
        if self._trials is not None:  # restored, or used for an experiment before
            agreed(self._task, config)
            self._given = {"metric": self._metric, "mode": self._mode}
        self._agree(metric, mode)
        if self._trials is None:
            self._trials = self._begin(config, own)
        self._trials.outcomes.stop = criteria(spec.get("stop"))
        self._give(config)
        return self._trials.ask_tell.own == own

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Limit the live trials (called by Ray's ``ConcurrencyLimiter``).

        Ray's own limit would keep the result of a trial that is run again after an error.
        """
        self._at_once = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next policy or policies, and values of own domains (called by Ray).

        None when as many trials are live as may be.
        """
        trials = self._ready()
        if not trials.known:
            host = controller()
            refuse_population_based_training(host)
            if self._population is not None:
                refuse_repeater(host)
            stop = criteria(experiment_spec(host).get("stop"))
            trials.outcomes.stop = trials.outcomes.stop or stop
        if self._at_once is not None and len(trials.live) >= self._at_once:
            self._reconcile(trials)
            if len(trials.live) >= self._at_once:
                return None
        return {**self._added, **with_levels(trials.ask(trial_id))}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note how far a trial is (called by Ray)."""
        trials = self._ready()
        if not self._is_mine(trial_id, result):
            return
        trials.report(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """End a trial in the study (called by Ray)."""
        trials = self._ready()
        self._is_mine(trial_id, result or {})
        trials.end(trial_id, result, error=error)

    def add_evaluated_point(
        self,
        parameters: LRPolicy | Mapping[str, Any],
        value: float | Mapping[str, Any],
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Add a result from elsewhere; it counts as a trial of its own.

        Args:
            parameters: a config with ``lr_policy``, a policy, or parameters of a trial.
            value: its metric; with ``objective="pareto"``, a mapping with ``top1``,
                ``iterations_to_best`` and ``loss_difference``, as a trial reports.
            error: whether it failed.
            pruned: whether it was stopped early.
            intermediate_values: the metric at its reports, in order.

        Raises:
            LRBenchError: for parameters that are no point of the space.
        """
        status = "failed" if error else "pruned" if pruned else "complete"
        known = KnownResult(parameters, value, status, list(intermediate_values or ()))
        if self._trials is None:
            self._known.append(known)
        else:
            self._add(self._trials.ask_tell, known)

    def recall(self, runs: Mapping[LRPolicy, Run]) -> None:
        """Take stored results of policies: when one is due, no trial of Ray's trains it.

        Args:
            runs: complete runs that the trainable would repeat number by number. The numbers of
                the trials that they ended are in ``recalled``.
        """
        weights, stored = self.settings.weights, self._begun().stored
        for policy, run in runs.items():
            budget, score = run.max_iterations, score_run(run, weights)
            stored[policy] = TrialOutcome(run.status, run.metrics, budget, budget, score, run)

    def settle(self) -> None:
        """End the trials that Ray never reported the end of, as when ``time_budget_s`` was up."""
        for trial_id in self._trials.live if self._trials is not None else ():
            self.on_trial_complete(trial_id)

    def _ready(self) -> StudyTrials:
        if self._trials is None:
            # Of an experiment with an empty config Ray reports nothing to a searcher.
            metric, mode = metric_and_mode_of_run()
            self._agree(metric_name(metric), mode_name(mode))
            self._trials = self._begin({}, {})
        if self._refusal is not None:
            raise StudyError(self._refusal)
        if self._restored and controller() is not None:
            self._restored = False
            self._reconcile(self._trials, restored=True)
        return self._trials

    def _agree(self, metric: str | None, mode: str | None) -> None:
        self._metric = given_once("metric", self._given["metric"], metric) or SCORE
        self._mode = given_once("mode", self._given["mode"], mode) or "max"

    def _begun(self) -> StudyTrials:
        if self._trials is None and not (self._shared["dataset"] and self._shared["model"]):
            raise StudyError(
                "searcher: the search has not begun, and its data set and model may come from "
                "the experiment's config: run it first, or give them to LRBenchSearcher"
            )
        return self._ready()

    def _begin(self, config: Mapping[str, Any], own: Mapping[str, BaseDistribution]) -> StudyTrials:
        """Make the study: all that can fail does so here, before the first trial."""
        shared = agreed(self._shared, config)
        points = [flat(point, own) for point in self._points]
        study = study_for(
            question_of(self._question, shared),
            objective=self._objective,
            score_weights=shared["score_weights"],
            sampler=self._sampler,
            seed=self._seed,
            points_to_evaluate=points,
        )
        crowded = None
        if self._sampler is None:
            crowded = optuna.samplers.TPESampler(
                seed=self._seed, constant_liar=False, multivariate=False
            )
        ask_tell = AskTell(study, own, crowded=crowded, sign=MODES[self._mode])
        space, scale = ask_tell.settings.space, ask_tell.settings.scale
        for place, point in enumerate(points):  # their own values too are within their ranges
            read_point(f"points_to_evaluate[{place}]", point, space, scale, own)
        for known in self._known:
            self._add(ask_tell, known)
        self._task = {**shared, "max_iterations": scale.max_iterations}
        self._give(config)
        outcomes = TrialOutcomes(self._wanted, scale.max_iterations, {})
        return StudyTrials(ask_tell, outcomes, self._population)

    def _give(self, config: Mapping[str, Any]) -> None:
        """Add what the config lacks of the task to every trial's config."""
        known = {name: value for name, value in self._task.items() if value is not None}
        self._added = {name: known[name] for name in known if config.get(name) is None}
        self._added["max_iterations"] = known["max_iterations"]
        if self._population is not None and self._objective != SCORE:
            # A trial with a low score may still be on the front.
            self._added |= {} if "early_stopping" in config else {"early_stopping": False}

    def _is_mine(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a trial is of this search; Ray restarts failed ones under another id."""
        trials = self._ready()
        if trial_id in trials.known:
            return True
        config = {name[7:]: result[name] for name in result if name.startswith("config/")}
        return trials.adopt(trial_id, config)

    def _add(self, trials: AskTell, known: KnownResult) -> None:
        where, settings = "add_evaluated_point", trials.settings
        given = flat(known.point, trials.own)
        point = read_point(where, given, settings.space, settings.scale, trials.own)
        result, status = known.report(where, self._wanted)
        budget = settings.scale.max_iterations
        outcome = TrialOutcome.from_report(result, status, self._metric, budget)
        trials.add(point, outcome, dict(enumerate(known.reports, start=1)))

    @property
    def _wanted(self) -> tuple[str, ...]:
        """What every trial has to report."""
        return (self._metric,) if self._objective == SCORE else (self._metric, "top1")

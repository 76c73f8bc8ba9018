"""The Optuna sampler of LR policies: similar tasks' runs and the study's own, weighed together."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from lrbench_hpo import checks
from lrbench_hpo.database import Database
from lrbench_hpo.errors import StudyError, UnknownNameError
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.prior.prior import Prior
from lrbench_hpo.prior.question import Question
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.score import ScoreWeights
from lrbench_hpo.study.optuna_internals import enqueued_params, is_bracket
from lrbench_hpo.study.policy_search import PolicySearch, Start
from lrbench_hpo.study.settings import OBJECTIVES, StudySettings
from lrbench_hpo.study.suggest import FUNCTION

# What a question says of a task; a database alone may serve the task of any study.
_OF_TASK = (
    "max_iterations",
    "batch_size",
    "optimizer",
    "functions",
    "search_space",
    "task",
    "reference_lr",
)


class LRBenchSampler(optuna.samplers.BaseSampler):
    """Suggests LR policies from results of similar tasks and of the study; other values by TPE.

    With a data set and a model it works in any study and defines the task. Without them it takes
    the task from a study made by `create_study`; in a study without a task, the other sampler
    suggests everything. Known-good policies come first. Then a surrogate over the LR curves of
    all policies takes over: a mixture of models of similar tasks, weighted by how well each
    predicts the study's own results (Feurer et al. 2018, arXiv 1802.02219, weight whole models by
    rank; here single tasks and LR units are weighted by likelihood). One sampler may serve
    several studies.

    Args:
        dataset: name of the data set.
        model: name of the model.
        max_iterations: budget of a trial, in iterations; the task's usual one when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        objective: ``score`` or ``pareto``; as the study's directions say when None.
        functions: LR functions to search; those of the paper when None, ``"all"`` for every one.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known, or its range test.
        trusted_sources: the sources in the LR database whose runs count; all when None.
        score_weights: weights of the score.
        others: the sampler for all other parameters; Optuna's TPE when None.
        seed: the same seed gives the same suggestions.

    Raises:
        LRBenchError: for bad input or a database that cannot be read.

    >>> sampler = LRBenchSampler("cifar10", "resnet32", database="sqlite://", seed=0)
    >>> study = optuna.create_study(direction="maximize", sampler=sampler)
    >>> from lrbench_hpo import suggest_policy
    >>> print(suggest_policy(study.ask()))
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    """

    def __init__(
        self,
        dataset: str | None = None,
        model: str | None = None,
        *,
        max_iterations: int | None = None,
        batch_size: int | None = None,
        optimizer: str | None = None,
        objective: str | None = None,
        functions: str | Sequence[str] | None = None,
        search_space: str | Path | SearchSpace | None = None,
        database: str | Path | Database | None = None,
        task: Mapping[str, Any] | None = None,
        reference_lr: float | RangeTest | None = None,
        trusted_sources: Sequence[str] | None = None,
        score_weights: ScoreWeights | Mapping[str, float] | None = None,
        others: optuna.samplers.BaseSampler | None = None,
        seed: int | None = None,
    ) -> None:
        if objective is not None and objective not in OBJECTIVES:
            raise UnknownNameError.among("objective", objective, OBJECTIVES)
        if others is not None and not isinstance(others, optuna.samplers.BaseSampler):
            raise StudyError(f"others={others!r}: expected an Optuna sampler, or None for TPE")
        if seed is not None:
            seed = checks.whole("seed", seed, 0, error=StudyError)
        weights = None if score_weights is None else ScoreWeights.of(score_weights)
        question = Question(
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
        self._start = None
        if dataset is not None and model is not None:
            self._start = Start.of(question.prior())
        else:
            _refuse_half({"dataset": dataset, "model": model}, question, objective)
        self._question = question
        self._objective = objective
        self._weights = weights
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._others = others or optuna.samplers.TPESampler(seed=seed)
        self._suggestions: dict[tuple[str, int], dict[str, Any]] = {}
        self._searches: dict[str, PolicySearch] = {}
        self._attached: dict[str, optuna.Study] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_prior(cls, prior: Prior, question: Question, seed: int | None = None) -> Self:
        """The sampler of a study whose prior is known already.

        Args:
            prior: what the search starts from.
            question: what it answers.
            seed: the same seed gives the same suggestions.
        """
        made = cls(database=question.database, trusted_sources=question.trusted_sources, seed=seed)
        made._start = Start.of(prior)
        return made

    def attach(self, study: optuna.Study) -> None:
        """Read the task of a study, or write the sampler's into it; `suggest_policy` calls this.

        Optuna shows a sampler only a part of the study where a pruner has brackets.

        Args:
            study: the study itself.

        Raises:
            StudyError: for a study of another task, or with other directions.
        """
        name = study.study_name
        if self._attached.get(name) is study:
            return
        with self._lock:
            settings = self._settings(study)
            if settings is None:
                return
            known = self._searches.get(name)
            start = self._start
            if known is not None and known.settings == settings:
                start = known.start
            elif start is None or start.settings.scale != settings.scale:
                start = self._start_of(settings)
            # Read again: another study may have the name of one that was deleted.
            self._searches[name] = PolicySearch(settings, start, self._seed)
            self._attached[name] = study

    def _settings(self, study: optuna.Study) -> StudySettings | None:
        """The settings of a study; those of the sampler's own task where it has none."""
        there = StudySettings.of(study) if StudySettings.known_to(study) else None
        if self._start is None:
            return there
        made = self._start.settings
        if there is not None:
            objective, weights = self._objective or there.objective, self._weights or there.weights
            asked = dataclasses.replace(made, objective=objective, weights=weights)
            there.refuse_other(study.study_name, asked)
            return there
        objective = self._objective_of(study)
        weights = self._weights or made.weights
        mine = dataclasses.replace(made, objective=objective, weights=weights)
        mine.keep_in(study)
        return mine

    def _objective_of(self, study: optuna.Study) -> str:
        """The objective that fits a study's directions; a single value may be minimised too."""
        names = tuple(direction.name.lower() for direction in study.directions)
        found = "score" if len(names) == 1 else "pareto" if names == OBJECTIVES["pareto"] else None
        asked = self._objective or found
        if asked is None or asked != found:
            wanted = f"objective={asked or 'score'!r}"
            raise StudyError(
                f"study {study.study_name!r} has the directions {', '.join(names)}, not those of "
                f"{wanted}: give it {', '.join(OBJECTIVES[asked or 'score'])}"
            )
        return asked

    def _start_of(self, settings: StudySettings) -> Start:
        """What past runs say of a study's task."""
        facts = settings.task.to_dict()
        # Of the sampler's own question, only where it looks counts here.
        question = Question(
            facts.pop("dataset"),
            facts.pop("model"),
            max_iterations=settings.scale.max_iterations,
            search_space=settings.space,
            functions=list(settings.space.functions),
            database=self._question.database,
            task=facts,
            reference_lr=settings.scale.reference_lr,
            trusted_sources=self._question.trusted_sources,
        )
        return Start.of(question.prior())

    def suggestion_of(self, study: optuna.Study, number: int) -> dict[str, Any] | None:
        """Return once why a trial got its policy; None if this sampler did not choose it.

        Args:
            study: the trial's study.
            number: the trial's number in it.
        """
        return self._suggestions.pop((study.study_name, number), None)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters of all LR functions, and those that the other sampler draws jointly."""
        search = self._searches.get(study.study_name)
        mine = {} if search is None else search.parameters
        others = self._others.infer_relative_search_space(study, trial)
        return {**mine, **{name: entry for name, entry in others.items() if name not in mine}}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The next policy as parameters, and the other sampler's values."""
        search = self._searches.get(study.study_name)
        mine = {} if search is None else search.parameters
        rest = {name: entry for name, entry in search_space.items() if name not in mine}
        values = self._others.sample_relative(study, trial, rest)
        given = FUNCTION in (enqueued_params(trial) or {})
        if search is None or given or FUNCTION not in search_space:
            return values
        with self._lock:
            # The whole study: a pruner with brackets shows only a part of it.
            params, why = search.suggest(self._attached.get(study.study_name, study), trial.number)
        self._suggestions[study.study_name, trial.number] = why
        return {**values, **params}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One value of the other sampler."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Called by Optuna before each trial."""
        attached = self._attached.get(study.study_name) is study
        # Attaching takes time, and a pruner's bracket has no attributes to attach to.
        if not attached and not is_bracket(study):
            self.attach(study)
        self._others.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Called by Optuna after each trial."""
        self._suggestions.pop((study.study_name, trial.number), None)
        self._others.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Called by Optuna in each thread; policies depend on the trial's number, not on these."""
        self._others.reseed_rng()

    def __getstate__(self) -> dict[str, Any]:
        # No open database, no password, no lock and no study.
        kept = {**self.__dict__, "_attached": {}, "_question": self._question.writable()}
        del kept["_lock"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _refuse_half(
    names: Mapping[str, str | None], question: Question, objective: str | None
) -> None:
    """Refuse a part of a task: the rest would have to be guessed."""
    missing = " and ".join(name for name, value in names.items() if value is None)
    given = {**names, "objective": objective}
    given |= {name: getattr(question, name) for name in _OF_TASK}
    for name, value in given.items():
        if value is not None:
            raise StudyError(
                f"{name}={value!r}: a task of the sampler's own needs {missing} too; "
                "without them the task is the study's"
            )

"""What a search is asked, as one value: a task by its names, a budget, and what may be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.database import Database, opened
from lrbench_hpo.database.location import with_password, without_password
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.policies.space_files import load_space, space_for
from lrbench_hpo.prior.prior import PORTFOLIO_SIZE, Prior, build_prior
from lrbench_hpo.prior.recommendation import Recommendation
from lrbench_hpo.records.range_test import RangeTest
from lrbench_hpo.records.tasks import recipe_for, task_for


@dataclass(frozen=True)
class Question:
    """The arguments that `recommend`, `create_study` and Ray's searcher have in common.

    Nothing is checked until `prior` is called: what a name means depends on the other values.

    Attributes:
        dataset: name of the data set.
        model: name of the model.
        max_iterations: budget of a trial, in iterations; the task's usual one when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: a name of `lrbench_hpo.records.tasks.OPTIMIZERS`, where it is not the recipe's.
        functions: LR functions to search; those of the paper when None, ``"all"`` for all.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database, or an open one; the default one when None.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known, or its range test.
        trusted_sources: the sources whose runs count, as `Run.source` names them; all when None.
    """

    dataset: str
    model: str
    max_iterations: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    functions: str | Sequence[str] | None = None
    search_space: str | Path | SearchSpace | None = None
    database: str | Path | Database | None = None
    task: Mapping[str, Any] | None = None
    reference_lr: float | RangeTest | None = None
    trusted_sources: Sequence[str] | None = None

    def prior(self, n: int = PORTFOLIO_SIZE) -> Prior:
        """Ask the database.

        Args:
            n: how many policies to recommend at most.

        Raises:
            LRBenchError: for bad input or a database that cannot be read.

        >>> question = Question("cifar10", "resnet32", database="sqlite://")
        >>> question.prior().scale.max_iterations
        64000
        """
        n = checks.whole("n", n)
        details = dict(self.task or {})
        recipe = recipe_for(
            self.dataset,
            self.model,
            details,
            max_iterations=self.max_iterations,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )
        if self.search_space is None:
            space = space_for(self.dataset, self.model)
        else:
            space = load_space(self.search_space)
        space = space.restricted(self.functions)
        task = task_for(self.dataset, self.model, recipe, details)
        with opened(self.database) as db:  # which makes a new one: all else is checked before
            return build_prior(
                db,
                task,
                max_iterations=recipe.max_iterations,
                space=space,
                reference_lr=self.reference_lr,
                trusted_sources=self.trusted_sources,
                n=n,
            )

    def writable(self) -> Question:
        """The question as a file may hold it: without a password, and without a connection."""
        database = None if isinstance(self.database, Database) else self.database
        return dataclasses.replace(self, database=without_password(database))

    def with_password(self) -> Question:
        """The inverse of `writable`, where the environment names the same database."""
        if isinstance(self.database, Database):
            return self
        return dataclasses.replace(self, database=with_password(self.database))


def recommend(
    dataset: str,
    model: str,
    n: int = PORTFOLIO_SIZE,
    *,
    max_iterations: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    functions: str | Sequence[str] | None = None,
    search_space: str | Path | SearchSpace | None = None,
    database: str | Path | Database | None = None,
    task: Mapping[str, Any] | None = None,
    reference_lr: float | RangeTest | None = None,
    trusted_sources: Sequence[str] | None = None,
) -> list[Recommendation]:
    """Policies worth trying on a task, best first, each with its evidence.

    Args:
        dataset: name of the data set.
        model: name of the model.
        n: how many at most.
        max_iterations: the budget they are scaled to; the usual one of the task when None.
        batch_size: images in an iteration, where it is not the recipe's.
        optimizer: ``sgd``, ``nesterov``, ``adam`` or ``adamw``, where it is not the recipe's.
        functions: LR functions to choose from; those of the paper when None, or ``"all"``.
        search_space: a YAML file or space; the one published for the task when None.
        database: URL or file of the LR database; ``LRBENCH_DATABASE_URL`` or the user's own
            when None.
        task: more facts about the task (fields of `Task`).
        reference_lr: the task's best constant LR, if known, or its range test.
        trusted_sources: the sources whose runs count, as `Run.source` names them; all when None.

    Raises:
        LRBenchError: for bad input or a database that cannot be read.

    >>> for entry in recommend("cifar10", "resnet32", n=2, database="sqlite://"):
    ...     print(entry.policy)
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    TRIEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    """
    question = Question(
        dataset,
        model,
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
    return list(question.prior(n).portfolio)

"""What a study of LR policies was created with: kept in the study, the same for every worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from lrbench_hpo.errors import StudyError
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space import SearchSpace
from lrbench_hpo.records.run import Task
from lrbench_hpo.records.score import ScoreWeights

OBJECTIVES: Mapping[str, tuple[Literal["maximize", "minimize"], ...]] = {
    "score": ("maximize",),
    "pareto": ("maximize", "minimize", "minimize"),  # Top-1, iterations to best, loss difference
}
_ATTRIBUTE = "lrbench"
GIVEN = "given"


@dataclass(frozen=True)
class StudySettings:
    """What a study was created with; kept in it, so that every worker reads the same.

    Attributes:
        task: the task, with its reference LR.
        space: the search space.
        scale: budget and reference LR.
        objective: ``score`` or ``pareto``.
        weights: of the score.
        summary: what the search started from, in words.
        reference_origin: where the reference LR comes from, in words.
    """

    task: Task
    space: SearchSpace
    scale: Scale
    objective: str
    weights: ScoreWeights
    summary: str
    reference_origin: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types, as the study's user attribute holds them."""
        return {
            "task": self.task.to_dict(),
            "space": self.space.to_dict(),
            "max_iterations": self.scale.max_iterations,
            "reference_lr": self.scale.reference_lr,
            "objective": self.objective,
            "score_weights": self.weights.to_dict(),
            "summary": self.summary,
            "reference_origin": self.reference_origin,
        }

    @classmethod
    def of(cls, study: optuna.Study) -> StudySettings:
        """The settings of a study made by `create_study`.

        Raises:
            StudyError: for any other study.
        """
        data = study.user_attrs.get(_ATTRIBUTE)
        if data is None:
            raise StudyError(
                f"study {study.study_name!r} knows no LR task: make it with "
                "lrbench_hpo.create_study, or give suggest_policy max_iterations and reference_lr"
            )
        return cls(
            task=Task.from_dict(data["task"]),
            space=SearchSpace.from_dict(data["space"]),
            scale=Scale(data["max_iterations"], data["reference_lr"]),
            objective=data["objective"],
            weights=ScoreWeights.of(data["score_weights"]),
            summary=data["summary"],
            reference_origin=data["reference_origin"],
        )

    @staticmethod
    def known_to(study: optuna.Study) -> bool:
        """Whether a study has settings."""
        return _ATTRIBUTE in study.user_attrs

    def keep_in(self, study: optuna.Study) -> None:
        """Make these the settings of a study."""
        study.set_user_attr(_ATTRIBUTE, self.to_dict())

    def refuse_other(self, name: str, asked: StudySettings) -> None:
        """Refuse to go on with a study as if it were another one.

        Args:
            name: the study's name.
            asked: what the caller wants it to be.

        Raises:
            StudyError: naming the first thing that differs.
        """
        there, here = self._comparable(), asked._comparable()
        if asked.reference_origin == GIVEN:
            there["reference_lr"], here["reference_lr"] = (
                self.scale.reference_lr,
                asked.scale.reference_lr,
            )
        for what in here:
            if there[what] != here[what]:
                raise StudyError(
                    f"study {name!r} was created with {what} {there[what]}, not {here[what]}: "
                    "give the same, or another study_name"
                )
        if self.space.fingerprint != asked.space.fingerprint:
            raise StudyError(
                f"study {name!r} was created with another search space (functions "
                f"{', '.join(self.space.functions)} of {self.space.name}): give the same "
                "functions and ranges, or another study_name"
            )

    def _comparable(self) -> dict[str, Any]:
        task = self.task
        return {
            "dataset": task.dataset,
            "model": task.model,
            "optimizer": task.optimizer,
            "momentum": task.momentum,
            "weight_decay": task.weight_decay,
            "batch_size": task.batch_size,
            "max_iterations": self.scale.max_iterations,
            "objective": self.objective,
            "score_weights": self.weights,
        }

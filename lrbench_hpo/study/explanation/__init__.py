"""Why a trial got its LR policy, what was expected of it, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from lrbench_hpo.checks import printable
from lrbench_hpo.errors import LRBenchError, StudyError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.study.explanation import parts, words
from lrbench_hpo.study.explanation.parts import Expectation, Leaning
from lrbench_hpo.study.explanation.result import Outcome, outcome_of
from lrbench_hpo.study.settings import StudySettings

__all__ = ["Expectation", "Explanation", "Leaning", "Outcome", "explain"]

_WORDS = {
    "portfolio": "a known-good policy",
    "surrogate": "the surrogate: the most promising policy, by similar tasks and own results",
    "exploration": "exploration: similar tasks are left out on purpose",
    "given": "given by hand",
    "tpe": "Optuna's TPE",
}
_LEAST_WEIGHT = 0.005  # similar tasks below it are not shown
_BY_HAND, _SAMPLER = "given by hand", "sampler "


@dataclass(frozen=True)
class Explanation:
    """Why a trial got its policy; ``str()`` returns it as text.

    Attributes:
        study: name of the study.
        trial: number of the trial.
        policy: its policy.
        source: ``portfolio``, ``surrogate``, ``exploration``, ``tpe``, ``given``, or ``sampler``
            for any other sampler.
        row: the portfolio's row, from 1, of a known-good policy.
        origin: the results or the sampler that it comes from, in words.
        why: the evidence, in words.
        expectation: of the policy, before it was tried.
        leanings: the similar tasks that it relied on, the largest weight first.
        prior_weight: the weight of all similar tasks together, in [0, 1].
        outcome: its result, beside the expectation and the best value before.
    """

    study: str
    trial: int
    policy: LRPolicy
    source: str
    row: int | None
    origin: str
    why: str
    expectation: Expectation
    leanings: Sequence[Leaning]
    prior_weight: float | None
    outcome: Outcome

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "study": self.study,
            "trial": self.trial,
            "policy": self.policy.to_dict(),
            "source": self.source,
            "row": self.row,
            "origin": self.origin,
            "why": self.why,
            "expectation": asdict(self.expectation),
            "tasks": [asdict(leaning) for leaning in self.leanings],
            "prior_weight": self.prior_weight,
            "outcome": {**asdict(self.outcome), "values": dict(self.outcome.values)},
        }

    def __str__(self) -> str:
        lines = [
            ("policy", str(self.policy)),
            ("chosen by", self._chooser()),
            ("because", self.why),
            ("expected", words.expected(self.expectation, self.outcome)),
            ("leaning on", self._weight_of_tasks()),
            *(("", words.leaning(each)) for each in self.leanings if each.weight >= _LEAST_WEIGHT),
            ("outcome", words.outcome(self.outcome)),
        ]
        title = f"trial {self.trial} of study {self.study!r}: {self.outcome.state}"
        body = [f"  {name:<11} {text}" for name, text in lines if text]
        return "\n".join(printable(line) for line in [title, *body])

    def _chooser(self) -> str:
        if self.source == "sampler":
            return self.origin
        row = "" if self.row is None else f", row {self.row} of the portfolio"
        origin = f": {self.origin}" if self.source == "portfolio" and self.origin else ""
        return f"{_WORDS[self.source]}{row}{origin}"

    def _weight_of_tasks(self) -> str:
        if self.prior_weight is not None and self.prior_weight < _LEAST_WEIGHT:
            return "no similar task"
        if self.prior_weight is not None:
            return f"similar tasks, weight {100 * self.prior_weight:.0f} % in all"
        return "similar tasks" if self.leanings else ""


def explain(study: optuna.Study, trial_number: int) -> Explanation:
    """Explain why a trial got its LR policy, what was expected of it, and its outcome.

    Args:
        study: a study of LR policies with any sampler.
        trial_number: the trial's number in it.

    Raises:
        StudyError: if the study has no LR task, no trial has the number, or the trial has no
            policy.

    >>> from lrbench_hpo import create_study, suggest_policy
    >>> study = create_study("cifar10", "resnet32", database="sqlite://")
    >>> print(suggest_policy(study.ask()))
    SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)
    >>> explain(study, 0).source
    'portfolio'
    """
    trials = study.get_trials(deepcopy=False)
    trial = _find(study, trials, trial_number)
    attributes = trial.user_attrs
    reason = attributes.get("suggestion")
    reason = reason if isinstance(reason, Mapping) else {}
    source, origin = _source(reason, str(attributes.get("source", "")))
    row = parts.number(reason, "row")
    expectation = parts.expectation(reason)
    return Explanation(
        study=study.study_name,
        trial=trial.number,
        policy=_policy(study, trial),
        source=source,
        row=None if row is None else int(row),
        origin=origin,
        why=str(reason.get("why") or attributes.get("why") or ""),
        expectation=expectation,
        leanings=parts.leanings(reason.get("tasks")),
        prior_weight=parts.number(reason, "prior_weight"),
        outcome=outcome_of(study, trials, trial, expectation),
    )


def _find(study: optuna.Study, trials: Sequence[FrozenTrial], number: int) -> FrozenTrial:
    if not StudySettings.known_to(study) and not any("policy" in t.user_attrs for t in trials):
        StudySettings.of(study)  # raises, with the next step
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(trials):
        known = f"0 to {len(trials) - 1}" if trials[1:] else "0 only" if trials else "none yet"
        raise StudyError(
            f"trial {number!r}: study {study.study_name!r} has no such trial; its trials: {known}"
        )
    return trials[number]


def _policy(study: optuna.Study, trial: FrozenTrial) -> LRPolicy:
    where = f"trial {trial.number} of study {study.study_name!r}"
    given = trial.user_attrs.get("policy")
    if given is None:
        over = "its objective never asked lrbench_hpo.suggest_policy for one"
        reason = over if trial.state.is_finished() else "wait until its objective has asked for one"
        raise StudyError(f"{where} has no LR policy: {reason}")
    try:
        return LRPolicy.from_dict(given)
    except (LRBenchError, TypeError) as error:
        raise StudyError(f"{where}: its user attribute 'policy' is no policy: {error}") from None


def _source(reason: Mapping[str, Any], origin: str) -> tuple[str, str]:
    """What chose a policy: as one of the sources of `Explanation`, and as the trial has it."""
    if (word := str(reason.get("source"))) in _WORDS:
        return word, origin
    if origin == _BY_HAND:
        return "given", origin
    if not origin:
        return "sampler", "a sampler that does not say why"
    if origin.startswith(_SAMPLER):
        return "tpe" if "TPE" in origin else "sampler", origin
    return "portfolio", origin

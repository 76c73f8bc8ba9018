"""Expectations and outcomes as text."""

from __future__ import annotations

import math

from lrbench_hpo.study.explanation.parts import Expectation, Leaning
from lrbench_hpo.study.explanation.result import Outcome

_LITTLE = 0.5  # of the least difference that matters


def expected(expected: Expectation, outcome: Outcome) -> str:
    """The expectation; empty if there was none."""
    parts = []
    if expected.score is not None:
        between = (
            f", between {expected.low:.4g} and {expected.high:.4g}"
            if expected.low is not None and expected.high is not None
            else ""
        )
        parts.append(f"a score of {expected.score:.4g}{between}")
    elif expected.mean is not None:
        units = math.expm1(min(-expected.mean, 50.0))
        parts.append(
            "about as good as the best so far, or better"
            if units < _LITTLE
            else f"below the best so far by {units:.2g} times the least difference that matters"
        )
    if expected.chance is not None:
        best = "the best so far"
        if outcome.best_before is not None:
            best += f", {outcome.best_before:.4f} of trial {outcome.best_trial}"
        parts.append(f"a chance of {100 * expected.chance:.0f} % to beat {best}")
    return "; ".join(parts)


def leaning(leaning: Leaning) -> str:
    """A similar task and its weight."""
    parts = [f"weight {leaning.weight:.2f}"]
    if leaning.similarity is not None:
        parts.append(f"{100 * leaning.similarity:.0f} % similar")
    if leaning.agreement is not None:
        parts.append(f"rank agreement {leaning.agreement:+.2f}")
    return f"  {leaning.task}: {', '.join(parts)}"


def outcome(outcome: Outcome) -> str:
    """The outcome of a trial."""
    values = ", ".join(f"{name} {value:.6g}" for name, value in outcome.values.items())
    match outcome.state:
        case "running" | "waiting":
            return "not known yet"
        case "failed":
            return "it failed, which is no evidence about the policy"
        case "diverged":
            return "it diverged: its loss was no number any more"
        case "pruned":
            at = "before its first report" if outcome.step is None else f"at step {outcome.step:,}"
            return f"stopped {at}" + (f", {values}" if values else "")
    parts = [values]
    if outcome.against_expectation == "as expected":
        parts.append("within what was expected")
    elif outcome.against_expectation is not None:
        parts.append(f"{outcome.against_expectation} than expected")
    if outcome.against_best is not None:
        parts.append(f"{_beside(outcome.against_best)} the best before it")
    return "; ".join(parts)


def _beside(gain: float) -> str:
    if gain == 0:
        return "equal to"
    return f"{abs(gain):.4f} {'better than' if gain > 0 else 'short of'}"

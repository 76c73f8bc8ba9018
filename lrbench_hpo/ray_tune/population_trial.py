"""A trial that is a population: its policies are trained together, and reported one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrbench_hpo.errors import TrainingError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.member_reports import MEMBERS, as_text
from lrbench_hpo.records.reports import RUN, RUNNING, report, rung_at, score_at
from lrbench_hpo.records.run import Run
from lrbench_hpo.records.score import ScoreWeights, score_run
from lrbench_hpo.study.stopping import Observed, StoppingRule, noise_of_best

if TYPE_CHECKING:
    from torch import Tensor

    from lrbench_hpo.training import Member, Population, Trainer

_FORMAT = 2  # of the state dict


class PopulationTrial:
    """Policies that are trained together until each has ended.

    A policy that ends complete has the numbers that it has alone. What `state_dict` gives is all
    that the trial is made of.

    Args:
        trainer: what to train.
        policies: the policies, in the order that their reports are numbered in.
        max_iterations: the budget of each, in iterations.
        weights: of the score.
        executor: as in `Population`.
        early_stopping: whether policies that fall behind the others are stopped.

    Attributes:
        has_new_best: whether a policy has ended best of all since the state was last taken.

    Raises:
        LRBenchError: for an executor that is not there or not possible.
    """

    def __init__(
        self,
        trainer: Trainer,
        policies: Sequence[LRPolicy],
        max_iterations: int,
        *,
        weights: ScoreWeights,
        executor: str = "auto",
        early_stopping: bool = True,
    ) -> None:
        self._trainer = trainer
        self._policies = tuple(policies)
        self._budget = max_iterations
        self._weights = weights
        self._early_stopping = early_stopping
        self._ended: dict[int, Run] = {}
        self._kept: dict[int, Mapping[str, Tensor]] = {}
        self._moved: set[int] = set()
        self.has_new_best = False
        self._report_all = False
        self._population = self._made(executor)
        self._fill()

    @property
    def executor(self) -> str:
        """The name of the executor that trains them."""
        return self._population.executor.name

    @property
    def finished(self) -> bool:
        """Whether all policies have ended."""
        return len(self._ended) == len(self._policies)

    def step(self) -> None:
        """Train until at least one policy comes to its next evaluation, or diverges."""
        moved = self._population.step()
        self._moved |= {member.number for member in moved}
        losing = self._losing(moved)
        self._population.remove(losing)
        for member in moved:
            if member.finished or member in losing:
                self._end(member)
        self._fill()

    def report(self) -> dict[str, Any]:
        """The trial so far: the same keys every time.

        Its metrics are those of the best policy so far, so that every report has what schedulers
        compare; ``iteration`` is the mean of its policies, where one that has ended counts with its
        whole budget. ``members`` holds the reports of those that moved since
        the last one (of all, when the trial is over or was restored).
        """
        runs = self._runs()
        best = max(runs, key=lambda number: self._rank(runs[number]))
        reported = runs.keys() if self.finished or self._report_all else self._moved & runs.keys()
        self._moved, self._report_all = set(), False
        shown = report(runs[best], self._weights, finished=self.finished)
        del shown[RUN]  # it is among the members'
        iteration = self._iteration()
        return {
            **shown,
            **_cost(list(runs.values()), self._population.trained_iterations),
            "iteration": iteration,
            "progress": iteration / self._budget,
            "rung": rung_at(iteration, self._budget),
            "status": runs[best].status if self.finished else RUNNING,
            "ended": len(self._ended),
            "executor": self.executor,
            "trained_iterations": self._population.trained_iterations,
            "saved_iterations": self._population.saved_iterations,
            MEMBERS: as_text(
                {
                    number: report(runs[number], self._weights, finished=number in self._ended)
                    for number in reported
                }
            ),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the trial is made of, in tensors and JSON types."""
        self.has_new_best = False
        return {
            "format": _FORMAT,
            "policies": [policy.to_dict() for policy in self._policies],
            "ended": {number: run.to_dict() for number, run in self._ended.items()},
            "scores": {
                number: score_run(self._ended[number], self._weights) for number in self._kept
            },
            "weights": {number: dict(state) for number, state in self._kept.items()},
            "executor": self.executor,
            "population": self._population.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the executor that it had.

        Raises:
            TrainingError: for the state of other policies, or something else.
        """
        if state.get("format") != _FORMAT or "population" not in state:
            raise TrainingError(
                f"no state of a population's trial of format {_FORMAT}: start the trial again"
            )
        if state["policies"] != [policy.to_dict() for policy in self._policies]:
            raise TrainingError(
                "the state is of a population of other policies: give the state of this trial"
            )
        self._population = self._made(state["executor"])
        self._population.load_state_dict(state["population"])
        self._ended = {number: Run.from_dict(run) for number, run in state["ended"].items()}
        self._kept = {
            number: {name: value.clone() for name, value in weights.items()}
            for number, weights in state["weights"].items()
        }
        self._moved, self._report_all = set(), True
        self._fill()

    def _made(self, executor: str) -> Population:
        from lrbench_hpo.training import Population

        return Population(self._trainer, capacity=len(self._policies), executor=executor)

    def _fill(self) -> None:
        """Begin the policies that there is room for; a member's number is its policy's place."""
        under_way = {member.number for member in self._population.members}
        for number, policy in enumerate(self._policies):
            if len(self._population.members) >= self._population.capacity:
                return
            if number not in under_way and number not in self._ended:
                self._population.add(policy, self._budget)

    def _runs(self) -> dict[int, Run]:
        """The runs so far, by their policy's place."""
        runs = {member.number: member.run() for member in self._population.members}
        return {number: run for number, run in runs.items() if run.curve} | self._ended

    def _losing(self, moved: Sequence[Member]) -> list[Member]:
        """The policies evaluated just now that are predicted to lose, and are stopped."""
        if not self._early_stopping:
            return []
        rule = StoppingRule()
        runs = self._runs() | {member.number: member.run() for member in moved}
        observed = {number: self._observed(run) for number, run in runs.items()}
        losing = []
        for member in moved:
            others = [observed[number] for number in observed if number != member.number]
            samples = runs[member.number].notes.get("evaluation_samples")
            noise = noise_of_best(others, samples)
            if not member.finished and rule.should_stop(
                observed[member.number], others, noise=noise
            ):
                losing.append(member)
        return losing

    def _observed(self, run: Run) -> Observed:
        points = [point for point in run.curve if point.top1 is not None]
        return Observed(
            run.policy,
            run.max_iterations,
            tuple(point.iteration for point in points),
            tuple(score_at(point, run.max_iterations, self._weights) for point in points),
            finished=run.status == "complete",
        )

    def _end(self, member: Member) -> None:
        run = member.run()
        if run.status == "complete":
            others = (score_run(self._ended[number], self._weights) for number in self._kept)
            best = max(others, default=-math.inf)
            self.has_new_best |= score_run(run, self._weights) > best
            self._kept[member.number] = member.state
        self._ended[member.number] = run

    def _rank(self, run: Run) -> tuple[bool, float]:
        whole = run.status == "complete" or not self.finished
        return whole, score_run(run, self._weights)

    def _iteration(self) -> int:
        """The mean iteration of the policies; one that has ended counts with its whole budget."""
        through = len(self._ended) * self._budget
        under_way = sum(member.iteration for member in self._population.members)
        return (through + under_way) // len(self._policies)


def weights_in(state: Mapping[str, Any], member: int | None = None) -> Mapping[str, Tensor]:
    """The weights of a policy at its best evaluation, from the state of a population's trial.

    Args:
        state: what `PopulationTrial.state_dict` gave.
        member: the policy's place; that of the best score when None.

    Raises:
        TrainingError: when that policy, or any, did not end complete.
    """
    known: Mapping[int, Mapping[str, Tensor]] = state["weights"]
    if member is None:
        member = max(known, key=lambda number: state["scores"][number], default=None)
    if member is None or member not in known:
        which = "no policy" if member is None else f"policy {member}"
        raise TrainingError(
            f"{which} of this population has ended complete: take the checkpoint of a trial that "
            "is over"
        )
    return known[member]


def _cost(runs: Sequence[Run], updates: int) -> dict[str, float]:
    """What the whole population has cost: the sum of its policies' shares."""
    seconds, evaluating = (
        sum(run.cost.get(name) or 0.0 for run in runs) for name in ("seconds", "eval_seconds")
    )
    samples = updates * (runs[0].task.batch_size or 0)
    return {
        "seconds": seconds,
        "eval_seconds": evaluating,
        "samples_per_second": samples / max(seconds - evaluating, 1e-9),
    }

"""Many policies trained together: one stream of data, shared prefixes trained once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrbench_hpo.errors import TrainingError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.cost import CostMeter
from lrbench_hpo.training.loop import CHECK_EVERY
from lrbench_hpo.training.population.choice import make_executor
from lrbench_hpo.training.population.executor import Executor
from lrbench_hpo.training.population.member import Member
from lrbench_hpo.training.population.memory import members_that_fit
from lrbench_hpo.training.population.prefix_cache import MOST_BYTES, Stages, sampled
from lrbench_hpo.training.progress import Progress
from lrbench_hpo.training.session import memory_checked
from lrbench_hpo.training.trainer import Trainer

OnProgress = Callable[[Sequence[Member]], bool | None]

_FORMAT = 1  # of the state dict


@dataclass
class _Lane:
    """One network of the executor, and the members that it is so far."""

    riders: list[Member] = field(default_factory=list)

    @property
    def iteration(self) -> int:
        return self.riders[0].iteration

    @property
    def top1(self) -> float:
        """The highest so far."""
        return max(rider.progress.metrics()["top1"] or 0.0 for rider in self.riders)


class Population:
    """Runs of one trainer that are trained together, and end with the numbers they have alone.

    Members come and go at any time. Those with the same seed whose policies give the same LRs up
    to some iteration are one network up to there, which is then forked (the stage trees of Hippo,
    Shin et al. 2020, arXiv 2006.11972); a member that comes later starts from where an earlier
    one with its LRs was evaluated, where that is still at hand.

    Args:
        trainer: what to train.
        room: how many members at once; cut to what the memory holds.
        executor: ``stream``, ``stacked``, or ``auto`` for the faster one.
        processes: how many processes have such a population on this device.

    Attributes:
        room: how many members there may be.
        notes: what was decided, a line each: the executor, and a cut of ``room``.
        trained_iterations: updates of networks so far.
        saved_iterations: updates that members did not need one of their own for.

    Raises:
        LRBenchError: for no room, or an executor that is not there or not possible.

    >>> from lrbench_hpo.training import load_data
    >>> population = Population(Trainer(load_data("digits"), "mlp"), room=2, executor="stream")
    >>> drops = [LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[at]) for at in (10, 15)]
    >>> members = [population.add(policy, 20) for policy in drops]
    >>> while population.members:
    ...     evaluated = population.step()
    >>> [member.run().status for member in members]
    ['complete', 'complete']
    >>> population.trained_iterations, population.saved_iterations
    (30, 10)
    """

    def __init__(
        self, trainer: Trainer, *, room: int = 16, executor: str = "auto", processes: int = 1
    ) -> None:
        if isinstance(room, bool) or not isinstance(room, int) or room < 1:
            raise TrainingError(f"room={room!r}: expected a whole number of at least 1")
        self._trainer = trainer
        self.executor: Executor
        self.executor, notes = make_executor(executor, trainer, room)
        stacked = self.executor.name == "stacked"
        self.room = members_that_fit(trainer, room, stacked=stacked, processes=processes)
        if self.room < room:
            notes += (f"{room} members do not fit into the memory: {self.room} at once",)
        self.notes: tuple[str, ...] = notes
        self.trained_iterations = 0
        self.saved_iterations = 0
        self._lanes: list[_Lane] = []
        self._stages = Stages(MOST_BYTES // processes)
        self._added = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """The members under way."""
        return tuple(rider for lane in self._lanes for rider in lane.riders)

    def add(self, policy: LRPolicy, max_iterations: int, *, seed: int | None = None) -> Member:
        """Begin a run.

        Args:
            policy: the LR of every iteration.
            max_iterations: the budget, in iterations.
            seed: of initial weights and data order; the trainer's own when None.

        Raises:
            TrainingError: for a budget below one iteration, or when there is no room.
        """
        if len(self.members) >= self.room:
            raise TrainingError(
                f"room={self.room}: as many members are under way: drop one, or wait for an end"
            )
        member = self._member(policy, max_iterations, seed)
        self._added += 1
        known = self._stages.longest(member)
        young = (lane for lane in self._lanes if not lane.iteration)
        beside = next((lane for lane in young if lane.riders[0].seed == member.seed), None)
        if known is None and beside is not None:
            beside.riders.append(member)
            return member
        with memory_checked(self._trainer.device, self._trainer.recipe.batch_size):
            if known is None:
                self.executor.add(member.seed)
            else:
                self.executor.restore(known)
                self.saved_iterations += member.iteration
        self._lanes.append(_Lane([member]))
        return member

    def step(self, on_progress: OnProgress | None = None) -> list[Member]:
        """Train until at least one member comes to its next evaluation.

        Args:
            on_progress: called every few updates with the members under way; when it returns
                True the step ends there.

        Returns:
            The members that were evaluated, or diverged; those that are finished have left.

        Raises:
            TrainingError: when there is no member, or too little memory on the device.
        """
        if not self._lanes:
            raise TrainingError("a population without members: add a policy first")
        moved: list[Member] = []
        spent = CostMeter(self._trainer.device)
        before = {member: member.iteration for member in self.members}
        with memory_checked(self._trainer.device, self._trainer.recipe.batch_size), spent.running():
            while not moved:
                moved = self._advance(spent)
                if on_progress is not None and on_progress(self.members):
                    break
        trained = [member for member, iteration in before.items() if member.iteration > iteration]
        for member in trained:
            member.meter.add(spent, 1 / len(trained))
        self.drop([member for member in moved if member.finished])
        return moved

    def drop(self, members: Collection[Member]) -> None:
        """Let members go; one that is not finished stays ``pruned`` as it is."""
        for lane in self._lanes:
            lane.riders = [rider for rider in lane.riders if rider not in members]
        keep = [index for index, lane in enumerate(self._lanes) if lane.riders]
        if len(keep) < len(self._lanes):
            self.executor.compact(keep)
            self._lanes = [self._lanes[index] for index in keep]

    def state_dict(self) -> dict[str, Any]:
        """A copy of all members under way, in tensors and JSON types."""
        return {
            "format": _FORMAT,
            "added": self._added,
            "iterations": [self.trained_iterations, self.saved_iterations],
            "lanes": [
                {
                    "executor": self.executor.state_dict(index),
                    "riders": [
                        {
                            "policy": rider.progress.record.policy.to_dict(),
                            "max_iterations": rider.progress.record.max_iterations,
                            "seed": rider.seed,
                            **rider.state_dict(),
                        }
                        for rider in lane.riders
                    ],
                }
                for index, lane in enumerate(self._lanes)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the members that were under way then.

        The executor may be another one than before.

        Raises:
            TrainingError: for the state of another trainer, or something else.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise TrainingError(
                f"no state of a population of format {_FORMAT}: give what state_dict gave"
            )
        self.drop(self.members)
        for saved in state["lanes"]:
            riders = []
            for entry in saved["riders"]:
                policy = LRPolicy.from_dict(entry["policy"])
                rider = self._member(policy, entry["max_iterations"], entry["seed"])
                rider.number = entry["number"]
                rider.load_state_dict(entry)
                riders.append(rider)
            self.executor.restore(saved["executor"])
            self._lanes.append(_Lane(riders))
        self._added = state["added"]
        self.trained_iterations, self.saved_iterations = state["iterations"]

    def _member(self, policy: LRPolicy, max_iterations: int, seed: int | None) -> Member:
        record, points = self._trainer.record(policy, max_iterations, seed=seed)
        if self.executor.name == "stacked":  # equal to rounding, where `stream` is equal bit by bit
            told = {**record.environment, "executor": "stacked"}
            record = dataclasses.replace(record, environment=told)
        return Member(self._added, Progress(record, points), self._trainer.device)

    def _advance(self, spent: CostMeter) -> list[Member]:
        """Train networks by a few updates, at most to the next evaluation or fork."""
        turn = self._turn()
        riders = [rider for index in turn for rider in self._lanes[index].riders]
        count = min(CHECK_EVERY, *(rider.until_next() for rider in riders))
        before = len(self._lanes)
        rates = {index: self._agreed(index, count) for index in turn}
        # Lanes that a fork has added agree too: their riders came apart at this very iteration.
        rates |= {index: self._agreed(index, count) for index in range(before, len(self._lanes))}
        count = min(len(row) for row in rates.values())
        table = [rates.get(index, [])[:count] for index in range(len(self._lanes))]
        failed = self.executor.advance(table)
        moved = []
        for index in rates:
            lane, update = self._lanes[index], failed[index]
            self.trained_iterations += count
            self.saved_iterations += count * (len(lane.riders) - 1)
            for rider in lane.riders:
                rider.iteration += count if update is None else update
                rider.share += count / len(lane.riders)
                if update is not None:
                    rider.progress.add(rider.iteration, {}, dict)
                    moved.append(rider)
        with spent.evaluating():
            return moved + self._evaluate(rates)

    def _turn(self) -> list[int]:
        """The networks whose turn it is: all, or those not evaluated yet, or else the best.

        In turn, nobody gains by waiting for others: a result is worth more the sooner it comes.
        """
        everybody = list(range(len(self._lanes)))
        if self.executor.lockstep:
            return everybody
        young = [index for index in everybody if not self._lanes[index].riders[0].progress.curve]
        if young:
            first = self._lanes[young[0]].riders[0]
            return [i for i in young if self._lanes[i].riders[0].iteration == first.iteration]
        return [max(everybody, key=lambda index: self._lanes[index].top1)]

    def _agreed(self, index: int, count: int) -> list[float]:
        """The LRs that all members of a lane share; those that part here get a lane of theirs."""
        lane = self._lanes[index]
        rows = [rider.learning_rates(count) for rider in lane.riders]
        groups: dict[float, list[Member]] = {}
        for rider, row in zip(lane.riders, rows, strict=True):
            groups.setdefault(row[0], []).append(rider)
        lane.riders, *others = groups.values()
        for riders in others:
            self.executor.fork(index)
            self._lanes.append(_Lane(riders))
        mine = [row for row in rows if row[0] == rows[0][0]]
        shared = next((at for at in range(count) if len({row[at] for row in mine}) > 1), count)
        return rows[0][:shared]

    def _evaluate(self, trained: Iterable[int]) -> list[Member]:
        """Evaluate the networks of which a member is due, each once."""
        due = {}
        for index in trained:
            riders = [rider for rider in self._lanes[index].riders if not rider.finished]
            riders = [rider for rider in riders if rider.iteration in rider.progress.points]
            if riders:
                due[index] = riders
        found = self.executor.evaluate(list(due)) if due else []
        for (index, riders), measured in zip(due.items(), found, strict=True):
            weights = functools.cache(functools.partial(self.executor.weights, index))
            for rider in riders:
                rider.progress.add(rider.iteration, measured, weights)
            self._stages.keep(riders, functools.partial(self.executor.state_dict, index))
        return [rider for riders in due.values() for rider in riders]


def train_all(
    trainer: Trainer,
    policies: Sequence[LRPolicy],
    max_iterations: int | Sequence[int],
    *,
    room: int = 16,
    executor: str = "auto",
) -> list[Member]:
    """Train policies together, as many at once as there is room for.

    Policies that agree the longest come after each other, so that what they share is done once.

    Args:
        trainer: what to train.
        policies: the policies.
        max_iterations: the budget, or one for each policy.
        room: how many at once.
        executor: as in `Population`.

    Returns:
        The ended runs' members, in the order of the policies.
    """
    budgets = (
        [max_iterations] * len(policies)
        if isinstance(max_iterations, int)
        else list(max_iterations)
    )
    ahead = [sampled(policy, budget) for policy, budget in zip(policies, budgets, strict=True)]
    waiting = sorted(range(len(policies)), key=ahead.__getitem__)
    population = Population(trainer, room=room, executor=executor)
    members: dict[int, Member] = {}
    while waiting or population.members:
        while waiting and len(population.members) < population.room:
            index = waiting.pop(0)
            members[index] = population.add(policies[index], budgets[index])
        population.step()
    return [members[index] for index in range(len(policies))]

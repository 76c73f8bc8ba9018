"""Many policies trained together: batches are drawn once, shared prefixes trained once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrbench_hpo import checks
from lrbench_hpo.errors import TrainingError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.training.cost import CostMeter
from lrbench_hpo.training.loop import CHECK_EVERY
from lrbench_hpo.training.population.choice import make_executor
from lrbench_hpo.training.population.executor import Executor
from lrbench_hpo.training.population.member import Member
from lrbench_hpo.training.population.memory import members_that_fit
from lrbench_hpo.training.population.prefix_cache import MAX_BYTES, PrefixCache, sampled
from lrbench_hpo.training.progress import Progress
from lrbench_hpo.training.session import memory_checked
from lrbench_hpo.training.trainer import Trainer

OnProgress = Callable[[Sequence[Member]], bool | None]

_FORMAT = 2  # of the state dict


@dataclass
class _Network:
    """One network of the executor, and the members that share it so far."""

    members: list[Member] = field(default_factory=list)

    @property
    def iteration(self) -> int:
        return self.members[0].iteration

    @property
    def top1(self) -> float:
        """The highest Top-1 so far."""
        return max(member.progress.metrics()["top1"] or 0.0 for member in self.members)


class Population:
    """Runs of one trainer that are trained together; each has the numbers that it has alone.

    Members are added and removed at any time. Members with the same seed and the same LRs up to
    some iteration share one network up to there, which is then forked (the stage trees of Hippo,
    Shin et al. 2020, arXiv 2006.11972). A member that is added later continues from an evaluation
    of an earlier one with the same LRs, if a copy of that network is still in the prefix cache.

    Args:
        trainer: trains the networks.
        capacity: how many members at once; fewer if the memory is too small.
        executor: ``stream``, ``stacked``, or ``auto`` for the faster one.
        processes: how many processes have such a population on this device.

    Attributes:
        capacity: how many members fit.
        notes: the choices made, one line each: the executor, and a smaller ``capacity``.
        trained_iterations: updates of networks so far.
        saved_iterations: updates saved by shared prefixes so far.

    Raises:
        LRBenchError: for a capacity below 1, or an executor that is unknown or impossible.

    >>> from lrbench_hpo.training import load_data
    >>> population = Population(Trainer(load_data("digits"), "mlp"), capacity=2, executor="stream")
    >>> policies = [LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[at]) for at in (10, 15)]
    >>> members = [population.add(policy, 20) for policy in policies]
    >>> while population.members:
    ...     evaluated = population.step()
    >>> [member.run().status for member in members]
    ['complete', 'complete']
    >>> population.trained_iterations, population.saved_iterations
    (30, 10)
    """

    def __init__(
        self, trainer: Trainer, *, capacity: int = 16, executor: str = "auto", processes: int = 1
    ) -> None:
        wanted = checks.whole("capacity", capacity, error=TrainingError)
        self._trainer = trainer
        self.executor: Executor
        self.executor, notes = make_executor(executor, trainer, wanted)
        stacked = self.executor.name == "stacked"
        self.capacity = members_that_fit(trainer, wanted, stacked=stacked, processes=processes)
        if self.capacity < wanted:
            notes += (f"{wanted} members do not fit into the memory: {self.capacity} at once",)
        self.notes: tuple[str, ...] = notes
        self.trained_iterations = 0
        self.saved_iterations = 0
        self._networks: list[_Network] = []
        self._prefixes = PrefixCache(MAX_BYTES // processes)
        self._added = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """The members in training."""
        return tuple(member for network in self._networks for member in network.members)

    def add(self, policy: LRPolicy, max_iterations: int, *, seed: int | None = None) -> Member:
        """Add a run.

        Args:
            policy: the LR of every iteration.
            max_iterations: the budget, in iterations.
            seed: of initial weights and data order; the trainer's own when None.

        Raises:
            TrainingError: for a budget below one iteration, or if the population is full.
        """
        if len(self.members) >= self.capacity:
            raise TrainingError(
                f"capacity={self.capacity}: as many members are under way: remove one, or wait for "
                "an end"
            )
        member = self._member(policy, max_iterations, seed)
        self._added += 1
        prefix = self._prefixes.longest(member)
        untrained = (network for network in self._networks if not network.iteration)
        same_start = next((n for n in untrained if n.members[0].seed == member.seed), None)
        if prefix is None and same_start is not None:
            same_start.members.append(member)
            return member
        with memory_checked(self._trainer.device, self._trainer.recipe.batch_size):
            if prefix is None:
                self.executor.add(member.seed)
            else:
                self.executor.restore(prefix)
                self.saved_iterations += member.iteration
        self._networks.append(_Network([member]))
        return member

    def step(self, on_progress: OnProgress | None = None) -> list[Member]:
        """Train until at least one member is evaluated or diverges.

        Args:
            on_progress: called every few updates with the members in training; when it returns
                True, the step ends there.

        Returns:
            The members that were evaluated or diverged; finished ones have been removed.

        Raises:
            TrainingError: if there is no member, or the device has too little memory.
        """
        if not self._networks:
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
        self.remove([member for member in moved if member.finished])
        return moved

    def remove(self, members: Collection[Member]) -> None:
        """Remove members; the record of one that is not finished stays ``pruned``."""
        for network in self._networks:
            network.members = [member for member in network.members if member not in members]
        keep = [index for index, network in enumerate(self._networks) if network.members]
        if len(keep) < len(self._networks):
            self.executor.compact(keep)
            self._networks = [self._networks[index] for index in keep]

    def state_dict(self) -> dict[str, Any]:
        """A copy of all networks and their members in training, in tensors and JSON types."""
        return {
            "format": _FORMAT,
            "added": self._added,
            "iterations": [self.trained_iterations, self.saved_iterations],
            "networks": [
                {
                    "executor": self.executor.state_dict(index),
                    "members": [
                        {
                            "policy": member.progress.record.policy.to_dict(),
                            "max_iterations": member.progress.record.max_iterations,
                            "seed": member.seed,
                            **member.state_dict(),
                        }
                        for member in network.members
                    ],
                }
                for index, network in enumerate(self._networks)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the members of that time.

        Present members are removed. The executor may be another one than before.

        Raises:
            TrainingError: for the state of another trainer, or something else.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            raise TrainingError(
                f"no state of a population of format {_FORMAT}: give what state_dict gave"
            )
        self.remove(self.members)
        for saved in state["networks"]:
            members = []
            for entry in saved["members"]:
                policy = LRPolicy.from_dict(entry["policy"])
                member = self._member(policy, entry["max_iterations"], entry["seed"])
                member.number = entry["number"]
                member.load_state_dict(entry)
                members.append(member)
            self.executor.restore(saved["executor"])
            self._networks.append(_Network(members))
        self._added = state["added"]
        self.trained_iterations, self.saved_iterations = state["iterations"]

    def _member(self, policy: LRPolicy, max_iterations: int, seed: int | None) -> Member:
        record, points = self._trainer.record(policy, max_iterations, seed=seed)
        if self.executor.name == "stacked":  # equal to rounding; `stream` is equal bit for bit
            environment = {**record.environment, "executor": "stacked"}
            record = dataclasses.replace(record, environment=environment)
        return Member(self._added, Progress(record, points), self._trainer.device)

    def _advance(self, spent: CostMeter) -> list[Member]:
        """Train networks by a few updates, at most to the next evaluation or fork."""
        turn = self._turn()
        members = [member for index in turn for member in self._networks[index].members]
        count = min(CHECK_EVERY, *(member.until_next() for member in members))
        before = len(self._networks)
        rates = {index: self._agreed(index, count) for index in turn}
        # Networks that were just forked are trained too: their members part at this iteration.
        rates |= {index: self._agreed(index, count) for index in range(before, len(self._networks))}
        count = min(len(row) for row in rates.values())
        table = [rates.get(index, [])[:count] for index in range(len(self._networks))]
        failed = self.executor.advance(table)
        moved = []
        for index in rates:
            network, update = self._networks[index], failed[index]
            self.trained_iterations += count
            self.saved_iterations += count * (len(network.members) - 1)
            for member in network.members:
                member.iteration += count if update is None else update
                member.share += count / len(network.members)
                if update is not None:
                    member.progress.add(member.iteration, {}, dict)
                    moved.append(member)
        with spent.evaluating():
            return moved + self._evaluate(rates)

    def _turn(self) -> list[int]:
        """The networks to train next: all, or those not evaluated yet, or else the best one.

        Networks that are trained in turn gain nothing by staying in step: the sooner a result is
        there, the sooner the search and its stopping rule use it.
        """
        every = list(range(len(self._networks)))
        if self.executor.lockstep:
            return every
        first = [self._networks[index].members[0] for index in every]
        new = [index for index in every if not first[index].progress.curve]
        if new:
            return [index for index in new if first[index].iteration == first[new[0]].iteration]
        return [max(every, key=lambda index: self._networks[index].top1)]

    def _agreed(self, index: int, count: int) -> list[float]:
        """Fork a network if its next LR is not the same for all its members.

        Returns:
            The next LRs that all remaining members of the network share, at most ``count``.
        """
        network = self._networks[index]
        rows = [member.learning_rates(count) for member in network.members]
        groups: dict[float, list[Member]] = {}
        for member, row in zip(network.members, rows, strict=True):
            groups.setdefault(row[0], []).append(member)
        network.members, *others = groups.values()
        for members in others:
            self.executor.fork(index)
            self._networks.append(_Network(members))
        mine = [row for row in rows if row[0] == rows[0][0]]
        shared = next((at for at in range(count) if len({row[at] for row in mine}) > 1), count)
        return rows[0][:shared]

    def _evaluate(self, trained: Iterable[int]) -> list[Member]:
        """Evaluate each network of which a member is at an evaluation; the members evaluated."""
        due = {}
        for index in trained:
            members = [member for member in self._networks[index].members if not member.finished]
            members = [member for member in members if member.iteration in member.progress.points]
            if members:
                due[index] = members
        found = self.executor.evaluate(list(due)) if due else []
        for (index, members), measured in zip(due.items(), found, strict=True):
            weights = functools.cache(functools.partial(self.executor.weights, index))
            for member in members:
                member.progress.add(member.iteration, measured, weights)
            self._prefixes.keep(members, functools.partial(self.executor.state_dict, index))
        return [member for members in due.values() for member in members]


def train_all(
    trainer: Trainer,
    policies: Sequence[LRPolicy],
    max_iterations: int | Sequence[int],
    *,
    capacity: int = 16,
    executor: str = "auto",
) -> list[Member]:
    """Train policies together, up to ``capacity`` at the same time.

    They are sorted by their LRs, so that policies with a long shared prefix are neighbours, and
    train it once.

    Args:
        trainer: trains the networks.
        policies: the policies.
        max_iterations: the budget, or one for each policy.
        capacity: how many at once.
        executor: as in `Population`.

    Returns:
        The finished members, in the order of the policies.
    """
    budgets = (
        [max_iterations] * len(policies)
        if isinstance(max_iterations, int)
        else list(max_iterations)
    )
    rates = [sampled(policy, budget) for policy, budget in zip(policies, budgets, strict=True)]
    waiting = sorted(range(len(policies)), key=rates.__getitem__)
    population = Population(trainer, capacity=capacity, executor=executor)
    members: dict[int, Member] = {}
    while waiting or population.members:
        while waiting and len(population.members) < population.capacity:
            index = waiting.pop(0)
            members[index] = population.add(policies[index], budgets[index])
        population.step()
    return [members[index] for index in range(len(policies))]

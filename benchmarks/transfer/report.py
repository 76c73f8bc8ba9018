"""The tables and the plot of the transfer benchmark, from the results of its searches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.transfer.scores import TOP_SHARE, PoolScores
from benchmarks.transfer.search import TRIALS
from benchmarks.transfer.tasks import TASKS, pool

CHECKPOINTS = (1, 3, 5, 10, 20, 30)
NEVER = math.inf
RESAMPLES = 1_000
# Until its first trial, while it pays for the range test, a search counts as a random policy.
NOTHING_YET = {"quantile": 0.5, "regret": 1.0}

Measure = Callable[["Judged"], float]


@dataclass(frozen=True)
class Judged:
    """One search, measured by its incumbents' scores with the judges' seeds.

    Attributes:
        result: of `benchmarks.transfer.search.search`.
        scores: the task's random policies.
        best: the best known mean score of the task.
    """

    result: Mapping[str, Any]
    scores: PoolScores
    best: float

    def value(self, trials: float) -> float | None:
        """The judged score of the incumbent after so many trials, the range test's cost paid."""
        paid = trials - self.result["charge"]
        reached = [e["judged"] for e in self.result["incumbents"] if e["trial"] <= paid]
        return reached[-1] if reached else None

    def quantile(self, trials: float) -> float:
        """The share of random policies that are worse than the incumbent."""
        value = self.value(trials)
        return NOTHING_YET["quantile"] if value is None else self.scores.quantile(value)

    def regret(self, trials: float) -> float:
        """0 for the best known policy, 1 for the median random one."""
        value = self.value(trials)
        return NOTHING_YET["regret"] if value is None else self.scores.regret(value, self.best)

    def trials_to(self, share: float) -> float:
        """Trials until the incumbent is in the best share, with the range test's cost."""
        for entry in self.result["incumbents"]:
            if entry["judged"] >= self.scores.threshold(share):
                return float(entry["trial"] + self.result["charge"])
        return NEVER

    @property
    def trials_to_top(self) -> float:
        """Trials until the incumbent is in the top 5 %."""
        return self.trials_to(TOP_SHARE)

    @property
    def is_tied(self) -> bool:
        """Whether at the end the incumbent is within the seeds' noise of the best known."""
        value = self.value(TRIALS)
        return value is not None and value >= self.best - self.scores.tie_margin()


class Results:
    """All searches of a results' folder.

    Args:
        results: of `benchmarks.transfer.search.search`.
        best: the best incumbents' confirmed means by task; the pool's own best counts too.
    """

    def __init__(self, results: Sequence[Mapping[str, Any]], best: Mapping[str, float]) -> None:
        self.pools = {name: PoolScores.of(pool(name)) for name in {r["task"] for r in results}}
        self.best = {n: max(p.best, best.get(n, -1.0) + p.offset) for n, p in self.pools.items()}
        self.searches: dict[str, dict[str, list[Judged]]] = {}
        for result in results:
            name = result["task"]
            judged = Judged(result, self.pools[name], self.best[name])
            of_method = self.searches.setdefault(result["method"], {})
            of_method.setdefault(name, []).append(judged)

    def of(self, method: str, tasks: Sequence[str]) -> list[list[Judged]]:
        """The searches of a method, a list a task."""
        found = self.searches.get(method, {})
        return [found[name] for name in tasks if name in found]


# --- medians in which every task counts the same, however many seeds it had -----------------------


def median(values: Sequence[Sequence[float]]) -> float:
    """The median over tasks and seeds.

    >>> median([[1.0, 2.0], [3.0] * 10])
    2.0
    """
    return _medians([np.sort(np.array(part))[None] for part in values])[0]


def interval(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % bootstrap interval of `median`: seeds are drawn again within each task."""
    random = np.random.default_rng(0)
    parts = [np.array(part) for part in values]
    drawn = [p[random.integers(len(p), size=(RESAMPLES, len(p)))] for p in parts]
    medians = np.sort(_medians(drawn))
    return float(medians[int(0.025 * RESAMPLES)]), float(medians[int(0.975 * RESAMPLES)])


def _medians(parts: Sequence[Any]) -> list[float]:
    """Weighted medians of rows; values of a task weigh 1 together."""
    values = np.concatenate(parts, axis=1)
    weights = np.concatenate([np.full(part.shape[1], 1 / part.shape[1]) for part in parts])
    order = values.argsort(axis=1, kind="stable")
    reached = weights[order].cumsum(axis=1) / len(parts)
    places = (reached >= 0.5 - 1e-9).argmax(axis=1)
    return [float(row[o[p]]) for row, o, p in zip(values, order, places, strict=True)]


def _each(parts: Sequence[Sequence[Judged]], measure: Measure) -> list[list[float]]:
    return [[measure(judged) for judged in part] for part in parts]


# --- tables ---------------------------------------------------------------------------------------


def tables(results: Results, cheap: Sequence[str]) -> str:
    """All tables, as Markdown."""
    tasks = [name for name in TASKS if name in results.pools]
    plain = [method for method in results.searches if ":" not in method]
    everywhere = [m for m in plain if set(results.searches[m]) == set(tasks)]
    parts = [
        "### Tasks\n",
        _task_table(results, tasks),
        f"\n### {len(tasks)} tasks: normalised regret, and trials to the top 5 %\n",
        _main_table(results, everywhere, tasks),
        "\n### Share of random policies that are worse, in per cent\n",
        _quantile_table(results, everywhere, tasks),
        "\n### Median trials to the top 5 %, task by task\n",
        _by_task(results, everywhere, tasks, lambda judged: judged.trials_to_top, _trials),
        "\n### Median normalised regret after 30 trials, task by task\n",
        _by_task(results, everywhere, tasks, lambda judged: judged.regret(TRIALS), _regret),
    ]
    here = [name for name in cheap if name in tasks]
    others = [method for method in results.searches if method not in everywhere]
    if others and here:
        rows = sorted(results.searches, key=lambda method: (method.partition(":")[2], method))
        parts += [
            f"\n### {len(here)} cheap tasks: misleading priors, and ours without its parts\n",
            _main_table(results, rows, here),
        ]
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _task_table(results: Results, tasks: Sequence[str]) -> str:
    rows = []
    for name in tasks:
        task, scores = TASKS[name], results.pools[name]
        rule = f"{task.recipe.optimizer} {task.recipe.momentum:g}, batch {task.recipe.batch_size}"
        found = (results.best[name], scores.top, scores.median, scores.noise)
        cells = [name, f"{task.dataset}/{task.model}", rule, str(task.budget)]
        rows.append([*cells, *(f"{value:.4f}" for value in found)])
    header = ["task", "data/model", "optimizer", "iterations"]
    return _table([*header, "best known", "top 5 %", "median", "seeds' std"], rows)


def _main_table(results: Results, methods: Sequence[str], tasks: Sequence[str]) -> str:
    rows = []
    for method in methods:
        if not (parts := results.of(method, tasks)):
            continue
        regrets = [_regret(median(_each(parts, _regret_at(n)))) for n in CHECKPOINTS]
        last = interval(_each(parts, _regret_at(TRIALS)))
        to_top = _each(parts, lambda judged: judged.trials_to_top)
        low, high = interval(to_top)
        worst = max(statistics.median(part) for part in to_top)
        tied = statistics.fmean(
            statistics.fmean(judged.is_tied for judged in part) for part in parts
        )
        rows.append(
            [
                method,
                *regrets[:-1],
                f"{regrets[-1]} ({_regret(last[0])} to {_regret(last[1])})",
                f"{_trials(median(to_top))} ({_trials(low)} to {_trials(high)})",
                _trials(worst),
                _trials(median(_each(parts, lambda judged: judged.trials_to(2 * TOP_SHARE)))),
                f"{100 * tied:.0f} %",
                str(sum(map(len, parts))),
            ]
        )
    header = ["method", *(f"after {n}" for n in CHECKPOINTS), "trials to top 5 %"]
    return _table([*header, "worst task", "top 10 %", "tied with the best", "searches"], rows)


def _regret_at(trials: int) -> Measure:
    return lambda judged: judged.regret(trials)


def _quantile_at(trials: int) -> Measure:
    return lambda judged: judged.quantile(trials)


def _quantile_table(results: Results, methods: Sequence[str], tasks: Sequence[str]) -> str:
    rows = []
    for method in methods:
        cells = [method]
        for n in CHECKPOINTS:
            values = _each(results.of(method, tasks), _quantile_at(n))
            low, high = interval(values)
            cells.append(f"{100 * median(values):.1f} ({100 * low:.1f} to {100 * high:.1f})")
        rows.append(cells)
    return _table(["method", *(f"after {n}" for n in CHECKPOINTS)], rows)


def _by_task(
    results: Results,
    methods: Sequence[str],
    tasks: Sequence[str],
    measure: Measure,
    shown: Callable[[float], str],
) -> str:
    rows = []
    for name in tasks:
        found = [_each(results.of(method, [name]), measure)[0] for method in methods]
        rows.append([name, *(shown(statistics.median(values)) for values in found)])
    return _table(["task", *methods], rows)


def _regret(value: float) -> str:
    return f"{value:.3f}"


def _trials(value: float) -> str:
    return f"> {TRIALS}" if value > TRIALS else f"{value:.1f}".removesuffix(".0")


# --- plot -----------------------------------------------------------------------------------------


def plot(results: Results, file: Path) -> None:
    """Median regret, trial by trial; ours with its 95 % interval."""
    from matplotlib.figure import Figure  # takes a second to load

    tasks = list(results.pools)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    trials = range(1, TRIALS + 1)
    for method in results.searches:
        if ":" in method or set(results.searches[method]) != set(tasks):
            continue
        parts = results.of(method, tasks)
        values = [_each(parts, _regret_at(n)) for n in trials]
        ours = method == "ours"
        style = {"linewidth": 2.5, "color": "black"} if ours else {"linewidth": 1.2}
        axes.plot(trials, [median(v) for v in values], label=method, **style)
        if ours:
            low, high = zip(*(interval(v) for v in values), strict=True)
            axes.fill_between(trials, low, high, color="black", alpha=0.15, linewidth=0)
    axes.set(
        xscale="log",
        ylim=(-0.01, 0.26),
        xlabel="trials",
        ylabel="normalised regret (0 best known, 1 median policy)",
        title="Best policy so far, judged with other seeds: medians",
    )
    axes.set_xticks(CHECKPOINTS, [str(n) for n in CHECKPOINTS])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)

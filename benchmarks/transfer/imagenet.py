"""Transfer between two networks on ImageNet: trials to the top 5 % of 512 measured runs.

The tables are those of OPDA (Lourie, Cho and He 2024, github.com/nicholaslourie/opda, CC BY-SA
4.0), a random search each for AlexNet and ConvNeXt-Tiny over LR, its peak epoch, momentum, weight
decay, label smoothing, batch size and epochs. They are not part of this project: give their folder.
One network's table is known, the other is searched: a trial is one of its rows, and a method that
wants another point gets the nearest row. Every seed draws half of the searched table's rows again.
Top-1 is what was measured there, once; a run that diverged has 0.

    python -m benchmarks.transfer.imagenet --data FOLDER
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from lrbench_hpo.policies.features import BLOCKS
from lrbench_hpo.prior.surrogate import Experts, Source, Surface
from lrbench_hpo.prior.surrogate.acquisition import expected_improvement
from lrbench_hpo.prior.surrogate.embedding import direction, embedded
from lrbench_hpo.prior.surrogate.own import OwnResults
from lrbench_hpo.prior.surrogate.process import Process
from lrbench_hpo.prior.surrogate.scale import log_regret
from lrbench_hpo.prior.surrogate.source import AMPLITUDE, NOISE, WIDTH

FILES = {
    "AlexNet": "alexnet_imagenet_trials.csv",
    "ConvNeXt-Tiny": "convnext_tiny_imagenet_trials.csv",
}
LOG = ("lr", "weight_decay", "batch_size", "one_minus_momentum")
COLUMNS = (*LOG, "lr_peak_epoch", "label_smoothing", "epochs")
TOP_SHARE, TRIALS = 0.05, 100
DEFAULT_LRS = (0.1, 0.01, 1.0)  # the usual first tries of SGD that the tables' range holds
ENQUEUED = 10

Floats = np.ndarray[Any, np.dtype[np.float64]]
# From the rows measured so far, with their Top-1, to the next row.
Search = Callable[[Sequence[tuple[int, float]]], int]


@dataclass(frozen=True)
class Table:
    """Measured runs of one network.

    Attributes:
        rows: each with its values by column.
        top1: share of images classified correctly; 0 for a run that diverged.
    """

    rows: tuple[Mapping[str, float], ...]
    top1: Floats

    @classmethod
    def read(cls, file: Path) -> Table:
        """From a CSV file of OPDA's."""
        with file.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines))
        rows = [
            {"one_minus_momentum": 1 - float(row["momentum"])}
            | {name: float(row[name]) for name in COLUMNS if name in row}
            for row in found
        ]
        top1 = [
            0.0 if row["nan_train_loss"] == "1" else float(row["best_top1"] or 0) for row in found
        ]
        return cls(tuple(rows), np.array(top1))

    def sample(self, seed: int) -> Table:
        """Half of the rows: otherwise a method that draws nothing would have one result."""
        half = np.random.default_rng(seed).permutation(len(self.rows))[: len(self.rows) // 2]
        return Table(tuple(self.rows[place] for place in half), self.top1[half])

    @property
    def threshold(self) -> float:
        """What the best 5 % reach."""
        return float(np.quantile(self.top1, 1 - TOP_SHARE))

    def distributions(self) -> dict[str, FloatDistribution]:
        """The box around all rows."""
        found = {}
        for name in COLUMNS:
            values = [row[name] for row in self.rows]
            found[name] = FloatDistribution(min(values), max(values), log=name in LOG)
        return found

    def nearest(self, point: Mapping[str, float], taken: Sequence[int]) -> int:
        """The row nearest to a point that was not taken; absent columns do not count.

        Every column is scaled to [0, 1], in decades where people think in decades.
        """
        distances = np.zeros(len(self.rows))
        for name, entry in self.distributions().items():
            if name in point:
                scale = math.log if entry.log else float
                width = scale(entry.high) - scale(entry.low)
                values = np.array([scale(row[name]) for row in self.rows])
                distances += ((values - scale(point[name])) / width) ** 2
        distances[list(taken)] = math.inf
        return int(distances.argmin())


def _random(source: Table, target: Table, seed: int) -> Search:
    order = np.random.default_rng(seed).permutation(len(target.rows)).tolist()
    return lambda measured: int(order[len(measured)])


def _tpe_after(points: Sequence[Mapping[str, float]], target: Table, seed: int) -> Search:
    """These points first, then Optuna's TPE, which learns the rows it got."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    space: dict[str, Any] = dict(target.distributions())

    def propose(measured: Sequence[tuple[int, float]]) -> int:
        if measured:
            row, top1 = measured[-1]
            params = dict(target.rows[row])
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=space, value=top1)
            )
        taken = [row for row, _ in measured]
        if len(measured) < len(points):
            return target.nearest(points[len(measured)], taken)
        asked = study.ask(space)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
        return target.nearest(asked.params, taken)

    return propose


def _tpe(source: Table, target: Table, seed: int) -> Search:
    return _tpe_after([], target, seed)


def _defaults(source: Table, target: Table, seed: int) -> Search:
    """The LRs people try first, with the usual momentum and weight decay."""
    usual = {"one_minus_momentum": 0.1, "weight_decay": 1e-4, "label_smoothing": 0.1}
    return _tpe_after([usual | {"lr": lr} for lr in DEFAULT_LRS], target, seed)


def _enqueue_best(source: Table, target: Table, seed: int) -> Search:
    """The other network's best rows as they are."""
    best = np.argsort(-source.top1)[:ENQUEUED]
    return _tpe_after([source.rows[place] for place in best], target, seed)


def _curves(table: Table) -> Floats:
    """Decades of LR over 16ths of a training: up to the peak and down to 0, in straight lines.

    LRs are taken relative to 1 - momentum, which the rows differ in.
    """
    shares = np.arange(BLOCKS * 8) / (BLOCKS * 8)
    found = []
    for row in table.rows:
        peak = min(max(row["lr_peak_epoch"] / row["epochs"], 1e-6), 1 - 1e-6)
        lrs = np.minimum(shares / peak, (1 - shares) / (1 - peak))
        means = lrs.reshape(BLOCKS, -1).mean(axis=1) * row["lr"] / row["one_minus_momentum"]
        found.append(np.log10(np.maximum(means, 1e-3 * means.max())))
    return np.array(found)


def _points(table: Table, box: Mapping[str, FloatDistribution]) -> Floats:
    """The rows' LR curves as the surrogate sees them, and the other columns beside them."""
    others = []
    for name in ("weight_decay", "label_smoothing", "batch_size", "epochs"):
        scale = math.log if box[name].log else float
        low, high = scale(box[name].low), scale(box[name].high)
        others.append([2 * (scale(row[name]) - low) / (high - low) for row in table.rows])
    return np.column_stack([embedded(_curves(table)), *others])


def _ours(source: Table, target: Table, seed: int) -> Search:
    """The package's surrogate, with the other columns as further dimensions."""
    surface = Surface(_curves(source), np.where(source.top1 > 0, source.top1, np.nan))
    decades = np.arange(-4, 5) / 4
    odds = np.exp(-0.5 * (decades / 0.5) ** 2)
    shifts = tuple(zip(decades.tolist(), (odds / odds.sum()).tolist(), strict=True))
    experts = Experts([Source("the other network", 0.5, surface, shifts)])
    box = source.distributions()
    points, along = _points(target, box), np.zeros(len(direction(BLOCKS)) + 4)
    along[:-4] = direction(BLOCKS)
    middle = float(surface.values.mean())
    process = Process.fitted(
        _points(source, box),
        surface.values - middle,
        np.full(len(source.rows), NOISE),
        width=WIDTH,
        amplitude=AMPLITUDE,
    )
    predictions = np.array([middle + process.mean(points - shift * along) for shift in decades])

    def propose(measured: Sequence[tuple[int, float]]) -> int:
        rows = [row for row, _ in measured]
        top1 = np.array([value if value > 0 else np.nan for _, value in measured])
        known = top1[np.isfinite(top1)]
        values = log_regret(top1, float(known.max()) if known.size else 0.0, surface.unit)
        values -= np.isnan(top1)
        opinion = experts.mixture(
            predictions,
            np.zeros_like(predictions),
            experts.weights(predictions[:, rows], values),
        )
        gain = np.exp(opinion.mean)
        if rows:
            own = OwnResults.fitted(points[rows], values, np.zeros(len(rows)), opinion.mean[rows])
            mean, spread = own.predict(points, opinion.mean)
            gain = expected_improvement(mean, np.hypot(spread, opinion.spread), own.incumbent)
        gain[rows] = -1
        return int(gain.argmax())

    return propose


METHODS: Mapping[str, Callable[[Table, Table, int], Search]] = {
    "random": _random,
    "tpe": _tpe,
    "defaults": _defaults,
    "enqueue-best": _enqueue_best,
    "ours": _ours,
}


def trials_to_top(search: Search, target: Table) -> float:
    """How many rows a search measures until one is in the top 5 %."""
    measured: list[tuple[int, float]] = []
    while len(measured) < TRIALS:
        row = search(measured)
        measured.append((row, float(target.top1[row])))
        if measured[-1][1] >= target.threshold:
            return len(measured)
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of OPDA's csv files")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=50)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables = {name: Table.read(args.data / file) for name, file in FILES.items()}
    directions = [("ConvNeXt-Tiny", "AlexNet"), ("AlexNet", "ConvNeXt-Tiny")]
    heads = [f"{source} to {target}" for source, target in directions]
    print(f"| trials to the top 5 %: median (quartiles) | {' | '.join(heads)} |")
    print("|---|---:|---:|")
    for method in args.methods:
        cells = []
        for source, target in directions:
            found = []
            for seed in range(args.seeds):
                part = tables[target].sample(seed)
                found.append(trials_to_top(METHODS[method](tables[source], part, seed), part))
            low, _, high = np.quantile(found, (0.25, 0.5, 0.75), method="nearest")
            cells.append(f"{statistics.median(found):g} ({low:g} to {high:g})")
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

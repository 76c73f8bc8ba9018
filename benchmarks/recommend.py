"""Cold-start times: importing the package, ``--help``, and ``recommend`` on a filled database.

Each figure is the median wall time of a fresh Python process; the commands take turns.

    python -m benchmarks.recommend --runs 10000 --repeats 7
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lrbench_hpo
from lrbench_hpo import Run
from lrbench_hpo.policies import DEFAULT_FUNCTIONS, coordinates
from lrbench_hpo.policies.coordinates import Scale
from lrbench_hpo.policies.space_files import load_space
from lrbench_hpo.records.tasks import recipe_for, task_for

TASKS = [
    (dataset, model, batch)
    for dataset in ("mnist", "kmnist", "fashionmnist", "cifar10", "cifar100", "svhn")
    for model in ("lenet", "cnn3", "resnet20", "resnet32")
    for batch in (64, 128)
]


def made_up_runs(count: int) -> list[Run]:
    """Runs with policies drawn from the default space and made-up results; half on one task."""
    draw = random.Random(0)
    space = load_space("default")
    runs = []
    for number in range(count):
        dataset, model, batch = draw.choice(TASKS) if number % 2 else ("cifar10", "resnet32", 128)
        function = draw.choice(DEFAULT_FUNCTIONS)
        point: dict[str, float] = {}
        for name, r in space.functions[function].items():
            value = draw.uniform(r.low, r.high)
            if name == "gap":
                point |= {f"gap{n}": draw.uniform(r.low, r.high) for n in range(1, 6)}
            else:
                point[name] = round(value) if name in {"half_cycles", "drops"} else value
        budget = draw.choice((3_200, 6_400, 64_000))
        task = task_for(dataset, model, recipe_for(dataset, model, batch_size=batch))
        metrics = {
            "top1": draw.uniform(0.5, 0.93),
            "iterations_to_best": draw.randint(1, budget),
            "loss_difference": draw.uniform(-0.1, 0.4),
        }
        policy = coordinates.to_policy(function, point, Scale(budget, 0.01))
        runs.append(Run(task, policy, budget, seed=number, metrics=metrics))
    return runs


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / "full.db", Path(folder) / "small.db"
        with lrbench_hpo.connect(full) as db:
            db.add(*made_up_runs(args.runs))
            stored = db.stats().runs
        lrbench_hpo.connect(small).close()
        python, module = [sys.executable, "-P"], [sys.executable, "-P", "-m", "lrbench_hpo"]
        ask = [*module, "recommend", "cifar10", "resnet32", "--database"]
        commands = {
            "python -c pass": [*python, "-c", "pass"],
            "import lrbench_hpo": [*python, "-c", "import lrbench_hpo"],
            "lrbench-hpo --help": [*module, "--help"],
            "recommend, 61 runs": [*ask, str(small)],
            f"recommend, {stored:,} runs": [*ask, str(full)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.repeats):
            for name, command in commands.items():
                times[name].append(seconds(command))
    for name, found in times.items():
        print(f"{name:28} {statistics.median(found):6.3f} s  ({min(found):.3f}-{max(found):.3f})")


if __name__ == "__main__":
    main()

"""What a warm start saves, on real training: best score so far, trial by trial.

Three ways to search the same space with the same trainer and seeds, interleaved:

* ``cold``: Optuna's default TPE, which knows nothing. It is given the same reference LR and ranges
  as the others, which a person starting from zero would have to guess.
* ``defaults``: the policies people try first (cosine, step, constant, ...), then TPE.
* ``warm``: ``lrbench_hpo.create_study`` on a database that holds the published results only.

Measured on 2 CPU cores, figures in docs/benchmarks.md:

    python -m benchmarks.warm_start digits lenet --max-iterations 300 --trials 12 --seeds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence

import optuna

import lrbench_hpo
from lrbench_hpo import training
from lrbench_hpo.prior.recommendation import DEFAULT_POINTS
from lrbench_hpo.records.score import score_run
from lrbench_hpo.records.tasks import recipe_for
from lrbench_hpo.study.settings import StudySettings
from lrbench_hpo.study.suggest import trial_params

CHECKPOINTS = (1, 2, 3, 5, 8, 12, 20)
NEAR = 0.005  # score: "as good as the best known" means within half a point of Top-1


def study_of(method: str, args: argparse.Namespace, seed: int) -> optuna.Study:
    study = lrbench_hpo.create_study(
        args.dataset,
        args.model,
        max_iterations=args.max_iterations,
        database="sqlite://",
        seed=seed,
    )
    if method == "warm":
        return study
    rival = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    rival.set_user_attr("lrbench", study.user_attrs["lrbench"])
    if method == "defaults":
        space = StudySettings.of(study).space
        for function, point in DEFAULT_POINTS:
            inside, _ = space.clip(function, point)
            rival.enqueue_trial(trial_params(function, inside))
    return rival


def search(
    method: str, args: argparse.Namespace, seed: int, trainer: training.Trainer
) -> list[float]:
    """The score of each trial, in order."""
    study = study_of(method, args, seed)
    budget = StudySettings.of(study).scale.max_iterations

    def objective(trial: optuna.Trial) -> float:
        policy = lrbench_hpo.suggest_policy(trial)
        return score_run(trainer.train(policy, budget, seed=seed).run)

    study.optimize(objective, n_trials=args.trials)
    return [float(trial.value or -1.0) for trial in study.trials[: args.trials]]


def report(scores: dict[str, list[list[float]]], trials: int) -> None:
    # Scores of different seeds are not comparable to half a point: each has its own best known.
    seeds = range(len(scores["cold"]))
    best_known = [max(max(runs[seed]) for runs in scores.values()) for seed in seeds]
    print(f"\nmedians over {len(seeds)} seeds: best score after so many trials")
    points = [n for n in CHECKPOINTS if n <= trials]
    print(
        "method    "
        + "".join(f"{n:>9}" for n in points)
        + f"   trials to within {NEAR} of the best known"
    )
    for method, runs in scores.items():
        after = [statistics.median(max(run[:n]) for run in runs) for n in points]
        reached = [first(run, best - NEAR) for run, best in zip(runs, best_known, strict=True)]
        median = statistics.median(reached)
        shown = f"{median:g}" if median <= trials else f"more than {trials}"
        print(f"{method:10}" + "".join(f"{value:9.4f}" for value in after) + f"   {shown}")


def first(run: Sequence[float], wanted: float) -> int:
    """The first trial that reaches a score; one more than there are if none does."""
    return next((n for n, value in enumerate(run, start=1) if value >= wanted), len(run) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("model")
    parser.add_argument("--data", help="folder of the data set; default LRBENCH_DATA")
    parser.add_argument("--max-iterations", type=int, default=300)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", help="also write every score to this file")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = training.load_data(args.dataset, args.data)
    trainer = training.Trainer(data, args.model, recipe_for(args.dataset, args.model))
    scores: dict[str, list[list[float]]] = {"cold": [], "defaults": [], "warm": []}
    for seed in range(args.seeds):
        for method, runs in scores.items():
            runs.append(search(method, args, seed, trainer))
            print(f"seed {seed} {method:9} best {max(runs[-1]):.4f}", flush=True)
    report(scores, args.trials)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(scores, file)


if __name__ == "__main__":
    main()

"""One search on Ray: the same program on a laptop, on several machines and in a cloud.

python examples/cluster/search.py                       # a Ray of its own on this machine
python examples/cluster/search.py --address auto        # the cluster that runs on this machine
examples/cluster/submit.sh --trials 100 --gpus 0.25     # on a cluster, through `ray job submit`

It joins a cluster only if it is given one: by --address, or by RAY_ADDRESS, which `ray job submit`
sets. Results go to the LR database of LRBENCH_DATABASE_URL, or to the one in the user's data folder
of the machine that this program runs on. Run it again with the same name and it goes on where it
was; with another --name it starts a new search.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

import lrbench_hpo
from lrbench_hpo import LRBenchSearcher, RecordRuns


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tune a learning-rate policy on Ray.")
    parser.add_argument("--dataset", default="digits", help="a name, .npz file or image folder")
    parser.add_argument("--model", default="lenet")
    parser.add_argument("--data", help="folder of the data set, on every node; else LRBENCH_DATA")
    parser.add_argument("--trials", type=int, default=8, help="policies to train")
    parser.add_argument("--population", type=int, help="policies trained together; else one each")
    parser.add_argument("--max-iterations", type=int, help="budget of a trial; else the recipe's")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs, and threads, of a trial")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a trial; 0.25: 4 share one")
    parser.add_argument("--concurrent", type=int, help="trials at once; default: what fits now")
    parser.add_argument("--storage", help="folder or URL that every node can write; ~/ray_results")
    parser.add_argument("--name", help="of the search; the same name goes on with it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="of a running cluster; else RAY_ADDRESS, else none")
    return parser.parse_args(arguments)


def fitting(cpus: float, gpus: float) -> int:
    """How many trials the cluster has room for; growing clusters want --concurrent instead."""
    wanted = {"CPU": cpus, "GPU": gpus}
    rooms = [
        min(node["Resources"].get(kind, 0) // each for kind, each in wanted.items() if each)
        for node in ray.nodes()
        if node["Alive"]
    ]
    return max(1, int(sum(rooms)))


class Lines(tune.Callback):
    """One line for each policy whose trial ended."""

    def __init__(self, searcher: LRBenchSearcher) -> None:
        self.searcher = searcher

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        in_study = self.searcher.study.trials
        for number in self.searcher.numbers(trial.trial_id):
            score, status = (in_study[number].user_attrs.get(name) for name in ("score", "status"))
            policy = lrbench_hpo.LRPolicy.from_dict(in_study[number].user_attrs["policy"])
            print(f"{trial.trial_id} {status} score {score} {policy}", flush=True)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        *_, reason = str(trial.get_error()).strip().splitlines()
        print(f"{trial.trial_id} failed: {reason}", flush=True)


def main() -> None:
    args = options()
    ray.init(address=args.address or os.environ.get("RAY_ADDRESS") or "local")
    config = {"dataset": args.dataset, "model": args.model, "seed": args.seed}
    given = {"data": args.data, "max_iterations": args.max_iterations}
    config |= {key: value for key, value in given.items() if value is not None}
    config["resources"] = {"cpu": args.cpus, "gpu": args.gpus}
    recorder = RecordRuns()
    searcher = LRBenchSearcher(seed=args.seed, population=args.population)
    together = args.population or 1
    budget = args.max_iterations or "usual"
    shape = f"-x{args.population}" if args.population else ""
    name = args.name or f"{args.dataset}-{args.model}-{budget}-{args.seed}{shape}"
    folder = args.storage or os.path.expanduser("~/ray_results")
    # Ray logs an error for a search of a new name; only of a bucket must it look itself.
    begun = "://" in folder or any(Path(folder, name).glob("experiment_state-*"))
    done = tune.run(
        lrbench_hpo.train,
        name=name,
        resume="AUTO" if begun else None,
        search_alg=searcher,
        callbacks=[recorder, Lines(searcher)],
        config=config,
        num_samples=math.ceil(args.trials / together),
        max_concurrent_trials=args.concurrent or fitting(args.cpus, args.gpus),
        storage_path=args.storage,
        max_failures=3,  # of a trial: it goes on from its last checkpoint
        raise_on_failed_trial=False,
        reuse_actors=True,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        verbose=0,
    )
    states = [trial.status for trial in done.trials]
    failed = states.count("ERROR")
    # The study also refuses, in one line, to go on with another search of this name.
    policies = searcher.study.trials
    cut = sum(trial.state.name == "PRUNED" for trial in policies)
    ended = states.count("TERMINATED")
    if args.population:
        print(f"{ended} of {len(states)} populations ended, {failed} failed")
        print(f"{len(policies)} policies, {cut} of them cut")
    else:
        print(f"{ended} of {len(states)} trials ended, {cut} of them cut, {failed} failed")
    complete = [trial for trial in policies if trial.user_attrs.get("status") == "complete"]
    if complete:
        best = max(complete, key=lambda trial: trial.user_attrs["score"])
        policy = lrbench_hpo.LRPolicy.from_dict(best.user_attrs["policy"])
        print(f"best: score {best.user_attrs['score']:.4f} with {policy}")
    if recorder.waiting:
        print(f"{len(recorder.waiting)} results wait in {recorder.file} for their database")
    ray.shutdown()
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

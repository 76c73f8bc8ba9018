"""A search on three nodes of which one is killed: every trial ends, and is stored once.

python examples/cluster/node_loss.py [TRIALS]

The nodes are real Ray nodes, all on this machine, with a CPU each. The database is a new file.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.cluster_utils import Cluster
from ray.tune.experiment import Trial

import lrbench_hpo
from lrbench_hpo import LRBenchSearcher, LRPolicy, RecordRuns


class KillANode(tune.Callback):
    """Kills a node, with all that runs on it, when half of the trials have ended."""

    def __init__(self, cluster: Cluster, trials: int) -> None:
        self.cluster = cluster
        self.left = trials // 2

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        result = trial.last_result
        policy = LRPolicy.from_dict(trial.config["lr_policy"])
        print(f"{trial.trial_id} {result['status']}, score {result['score']:.4f}, {policy}")
        self.left -= 1

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        # In the middle of a trial: one that is training on that node is lost with it.
        if self.left <= 0 and len(self.cluster.worker_nodes) == 2:
            node = next(iter(self.cluster.worker_nodes))
            print(f"killing node {node.node_id[:8]}", flush=True)
            self.cluster.remove_node(node, allow_graceful=False)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        print(f"{trial.trial_id} was lost with its node: it goes on elsewhere", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    folder = Path(tempfile.mkdtemp(prefix="node-loss-"))
    database = folder / "lr.db"
    cluster = Cluster()
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=200 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
        cluster.wait_for_nodes()
        searcher = LRBenchSearcher(seed=0, database=database)
        done = tune.run(
            lrbench_hpo.train,
            search_alg=searcher,
            config={"dataset": "digits", "model": "lenet", "max_iterations": 300},
            num_samples=count,
            max_concurrent_trials=3,
            reuse_actors=True,
            max_failures=3,
            callbacks=[RecordRuns(database), KillANode(cluster, count)],
            storage_path=str(folder),
            verbose=0,
        )
        left = len(cluster.worker_nodes) + 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    with lrbench_hpo.connect(database) as db:
        stored = db.find(source="local")
    different = len({run.policy for run in stored})
    print(f"nodes left: {left} of 3; trials: {dict(Counter(t.status for t in done.trials))}")
    print(f"in the study: {dict(Counter(t.state.name for t in searcher.study.trials))}")
    print(f"in the database: {len(stored)} runs of {different} policies: {database}")


if __name__ == "__main__":
    main()

"""What `tune` prints and writes about a study, with Ray or without."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from lrbench_hpo.cli import tables
from lrbench_hpo.cli.json_file import write_json
from lrbench_hpo.cli.tables import print_line
from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy
from lrbench_hpo.records.ranking import PolicyResult, rank_policies
from lrbench_hpo.records.run import Run
from lrbench_hpo.study.results import ranked_trials
from lrbench_hpo.study.settings import StudySettings

TRAINED_AGAIN = "the winner is trained again, for its weights are not at hand"


def print_start(console: Console, study: optuna.Study) -> int:
    """Print what is searched and what it starts from; return the budget of a trial."""
    settings = StudySettings.of(study)
    task, scale = settings.task, settings.scale
    done = len(study.get_trials(False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    lines = [
        f"{task.dataset} / {task.model}: {scale.max_iterations:,} iterations a trial, batch "
        f"{task.batch_size}, {task.optimizer}, reference LR {scale.reference_lr:g} "
        f"({settings.reference_origin})",
        f"going on with study {study.study_name!r} after {done} trials"
        if done
        else settings.summary,
    ]
    for line in lines:
        print_line(console, line)
    return scale.max_iterations


def finish(
    console: Console,
    study: optuna.Study,
    unstored: Sequence[Run],
    waiting_in: Path | None,
    json_file: str | None,
) -> None:
    """Print and write the results, however the search ended."""
    console.print(_trials_table(study))
    if unstored and waiting_in is not None:
        print_line(
            console,
            f"the LR database did not take {len(unstored)} results: they wait in {waiting_in} "
            "and follow with the next tune on this database",
        )
    elif unstored:
        _rescue(console, unstored)
    if json_file:
        write_json(Path(json_file), _results(study))


def _rescue(console: Console, unstored: Sequence[Run]) -> None:
    """Write runs that neither the LR database nor the waiting file took to another file."""
    name = f"lrbench-unstored-{os.getpid()}.json"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            write_json(folder / name, [run.to_dict() for run in unstored])
        except LRBenchError:
            continue
        print_line(
            console,
            f"the LR database did not take {len(unstored)} results: they are in {folder / name}; "
            "db.add(*map(lrbench_hpo.Run.from_dict, json.load(open(FILE)))) stores them",
        )
        return
    print_line(console, f"{len(unstored)} results could not be stored or written: no space is left")


def print_saved(console: Console, trained: int, shared: int, stopped: int) -> None:
    """Print how many iterations a population has trained, and how many it did not need to.

    Args:
        console: where to print.
        trained: iterations of networks.
        shared: those trained once for several policies with the same beginning.
        stopped: those left of the budgets of trials that were stopped early.
    """
    total = max(trained + shared + stopped, 1)
    print_line(
        console,
        f"{trained:,} iterations trained of {total:,} ({100 * trained / total:.0f} %): "
        f"{stopped:,} spared by early stopping, {shared:,} by shared beginnings",
    )


def print_test(console: Console, study: optuna.Study, json_file: str | None) -> None:
    """Print what the winner has reached on the test split."""
    top1 = tables.share(study.user_attrs["test"]["top1"])
    print_line(console, f"the winner on the test split, measured once: Top-1 {top1}")
    if json_file:
        write_json(Path(json_file), _results(study))


def print_how_to_resume(console: Console, study_name: str | None) -> None:
    """Print what is kept, and how to resume the search from it.

    Args:
        console: where to print.
        study_name: of a study that is kept, too.
    """
    kept = "the LR database" + (f" and in study {study_name!r}" if study_name else "")
    print_line(
        console,
        f"stopped; finished trials are kept in {kept}. Run the same command again to go on: it "
        "starts from them.",
    )


def _results(study: optuna.Study) -> dict[str, Any]:
    """A study as JSON types: its task, its trials best first, and the test of the winner."""
    settings = StudySettings.of(study).to_dict()
    del settings["space"]
    return {
        "study": study.study_name,
        **settings,
        "trials": [
            {"number": trial.number, "state": trial.state.name.lower(), **trial.user_attrs}
            for trial in ranked_trials(study)
        ],
        "test": study.user_attrs.get("test"),
    }


def _trials_table(study: optuna.Study) -> Table:
    """The trials of a study, best first, each with the source of its policy."""
    trials = ranked_trials(study)
    rows = []
    for rank, trial in zip(_ranks(trials), trials, strict=True):
        found = trial.user_attrs
        complete = found["status"] == "complete"
        rows.append(
            (
                rank,
                str(trial.number),
                str(LRPolicy.from_dict(found["policy"])),
                f"{found['score']:.4f}" if complete else found["status"],
                tables.share(found.get("top1")),
                tables.number(found.get("iterations_to_best")),
                tables.number(found.get("loss_difference"), "+.4f"),
                str(found["source"]),
            )
        )
    columns = ("#", "trial", "policy", "score", "Top-1", "iterations to best", "loss difference")
    headings = [f">{name}" if name != "policy" else name for name in columns]
    title = "Trials by score on the validation split; those within its noise share a rank"
    return tables.table(title, (*headings, "from"), rows)


def _ranks(ranked: Sequence[FrozenTrial]) -> list[str]:
    """Ranks of trials, best first: one evaluation cannot tell near scores apart."""
    complete = [trial.user_attrs for trial in ranked if trial.user_attrs["status"] == "complete"]
    results = [PolicyResult(LRPolicy.from_dict(a["policy"]), a["score"]) for a in complete]
    samples = [a["evaluation_samples"] for a in complete if a.get("evaluation_samples")]
    places = rank_policies(results, min(samples, default=None))
    return [str(place.rank) for place in places] + ["-"] * (len(ranked) - len(complete))

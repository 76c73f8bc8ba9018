"""What `tune` says and writes of a study, with Ray or without."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrbench_hpo.errors import LRBenchError

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from lrbench_hpo.records.run import Run

TRAINED_AGAIN = "the winner is trained again, for its weights are not at hand"


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is done.

    Raises:
        click.UsageError: for such a file.
    """
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise click.UsageError(
            f"--json {path}: {error.strerror}: expected a file in a folder that can be written"
        ) from None


def write_json(path: Path, data: Any) -> None:
    """Write JSON types to a file.

    Raises:
        LRBenchError: when the file cannot be written.
    """
    try:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LRBenchError(
            f"{path}: {error.strerror}: free some space, or name another file"
        ) from None


def print_start(console: Console, study: optuna.Study) -> int:
    """Say what is searched and from where; the budget of a trial."""
    from optuna.trial import TrialState

    from lrbench_hpo.study.settings import StudySettings

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
        say(console, line)
    return scale.max_iterations


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def finish(
    console: Console,
    study: optuna.Study,
    unstored: Sequence[Run],
    waiting_in: Path | None,
    json_file: str | None,
) -> None:
    """Show and keep what was reached, however the search ended."""
    from lrbench_hpo.cli import tables

    console.print(tables.trials(study))
    if unstored and waiting_in is not None:
        say(
            console,
            f"the LR database did not take {len(unstored)} results: they wait in {waiting_in} "
            "and follow with the next tune on this database",
        )
    elif unstored:
        _rescue(console, unstored)
    if json_file:
        write_json(Path(json_file), results(study))


def _rescue(console: Console, unstored: Sequence[Run]) -> None:
    """Write runs that neither the LR database nor their own file took to another one."""
    name = f"lrbench-unstored-{os.getpid()}.json"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            write_json(folder / name, [run.to_dict() for run in unstored])
        except LRBenchError:
            continue
        say(
            console,
            f"the LR database did not take {len(unstored)} results: they are in {folder / name}; "
            "db.add(*map(lrbench_hpo.Run.from_dict, json.load(open(FILE)))) stores them",
        )
        return
    say(console, f"{len(unstored)} results could not be stored or written: no space is left")


def print_saved(console: Console, trained: int, shared: int, stopped: int) -> None:
    """Say how many iterations a population has trained, and what it was spared.

    Args:
        console: where to.
        trained: iterations of networks.
        shared: those that policies with the same beginning had in common.
        stopped: those that trials stopped early did not use up.
    """
    asked = max(trained + shared + stopped, 1)
    say(
        console,
        f"{trained:,} iterations trained of {asked:,} ({100 * trained / asked:.0f} %): "
        f"{stopped:,} spared by early stopping, {shared:,} by shared beginnings",
    )


def print_test(console: Console, study: optuna.Study, json_file: str | None) -> None:
    """Say what the winner has reached on the test split."""
    from lrbench_hpo.cli import tables

    top1 = tables.share(study.user_attrs["test"]["top1"])
    say(console, f"the winner on the test split, measured once: Top-1 {top1}")
    if json_file:
        write_json(Path(json_file), results(study))


def print_how_to_go_on(console: Console, study_name: str | None) -> None:
    """Say what is kept, and how to go on from it.

    Args:
        console: where to.
        study_name: of a study that is kept too.
    """
    kept = "the LR database" + (f" and in study {study_name!r}" if study_name else "")
    say(
        console,
        f"stopped; finished trials are kept in {kept}. Run the same command again to go on: it "
        "starts from them.",
    )


def results(study: optuna.Study) -> dict[str, Any]:
    """All of a study as JSON types: its task, its trials best first, and the test of the winner."""
    from lrbench_hpo.study.results import ranked_trials
    from lrbench_hpo.study.settings import StudySettings

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

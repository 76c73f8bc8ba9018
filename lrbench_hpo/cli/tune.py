"""``tune``: the main job, from two names to a ranked table."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrbench_hpo.cli import options
from lrbench_hpo.errors import LRBenchError, StudyError

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from lrbench_hpo.objective import Objective
    from lrbench_hpo.records import Run

_OF_TRAINING = ("data", "download", "device", "amp")


@click.command()
@options.task
@click.option("--trials", default=20, show_default=True, help="How many policies to train.")
@click.option("--objective", default="score", show_default=True, help="score or pareto.")
@click.option("--data", metavar="DIR", help="Folder of the data set. Default: LRBENCH_DATA.")
@click.option("--download", is_flag=True, help="Let torchvision download a missing data set.")
@click.option("--storage", metavar="URL", help="Optuna storage, to go on later or in parallel.")
@click.option("--study-name", metavar="S", help="Name of the study in the storage.")
@click.option("--seed", default=0, show_default=True, help="Of weights, data order and sampler.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--amp", is_flag=True, help="Train in bfloat16 where it is safe.")
@click.option("--json", "json_file", metavar="FILE", help="Also write all results as JSON.")
def tune(
    dataset: str,
    model: str,
    trials: int,
    seed: int,
    storage: str | None,
    study_name: str | None,
    json_file: str | None,
    database: str | None,
    **settings: Any,
) -> None:
    """Tune the LR policy of MODEL on DATASET, starting from known results.

    DATASET is digits (no download), mnist, fashionmnist, kmnist, cifar10, cifar100, svhn, an
    .npz file or a folder of images; MODEL is lenet, cnn3, mlp, resnet20 to resnet110,
    torchvision:NAME or package.module:factory.
    """
    if trials < 1:
        raise click.UsageError(f"--trials {trials}: expected at least 1")
    if study_name and not storage:
        raise click.UsageError("--study-name names a study in a storage: give --storage too")
    if json_file:
        _check_writable(Path(json_file))
    from lrbench_hpo.cli import tables

    training = {name: settings.pop(name) for name in _OF_TRAINING} | {"seed": seed}
    objective, study = _prepare(dataset, model, database, storage, study_name, training, settings)
    console = tables.console()
    budget = _print_start(console, study)
    unstored: tuple[Run, ...] = ()
    try:
        interrupted = _optimize(console, study, objective, trials, budget, storage)
    finally:
        unstored = objective.close()
        _finish(console, study, unstored, json_file)
    if interrupted:
        _print_how_to_go_on(console, study, storage)
        sys.exit(130)
    _test(console, study, objective, json_file)
    sys.exit(1 if unstored else 0)


def _prepare(
    dataset: str,
    model: str,
    database: str | None,
    storage: str | None,
    study_name: str | None,
    training: dict[str, Any],
    settings: dict[str, Any],
) -> tuple[Objective, optuna.Study]:
    """Load the data, open the study, build the network: all that can fail before a trial."""
    import optuna

    from lrbench_hpo.objective import Objective
    from lrbench_hpo.study import create_study

    # Its warnings come with a traceback for every trial that Ctrl-C or an error ends.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = Objective(dataset, model, database=database, **training)
    study = create_study(
        objective.dataset_name,
        model,
        database=objective.database,
        storage=storage,
        study_name=study_name or (f"{objective.dataset_name}-{model}" if storage else None),
        load_if_exists=True,
        task=objective.task_details,
        seed=training["seed"],
        **settings,
    )
    objective.prepare(study)
    return objective, study


def _optimize(
    console: Console,
    study: optuna.Study,
    objective: Objective,
    trials: int,
    budget: int,
    storage: str | None,
) -> bool:
    """Run the trials; whether Ctrl-C broke them off."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from lrbench_hpo.cli.progress import StudyProgress

    try:
        with StudyProgress(console, trials, budget) as progress:
            objective.on_progress = progress.moved
            # Trials that recall a stored result come on top, but not without end.
            study.optimize(objective, 3 * trials + 10, callbacks=[progress.finished])
    except KeyboardInterrupt:
        return True
    except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StudyError(f"--storage {storage}: {reason}") from None
    return False


def _check_writable(path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise click.UsageError(
            f"--json {path}: {error.strerror}: expected a file in a folder that can be written"
        ) from None


def _write_json(path: Path, data: Any) -> None:
    try:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LRBenchError(
            f"{path}: {error.strerror}: free some space, or name another file"
        ) from None


def _print_start(console: Console, study: optuna.Study) -> int:
    """Say what is searched and from where; the budget of a trial."""
    from optuna.trial import TrialState

    from lrbench_hpo.study_settings import StudySettings

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
        _say(console, line)
    return scale.max_iterations


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _finish(
    console: Console, study: optuna.Study, unstored: Sequence[Run], json_file: str | None
) -> None:
    """Show and keep what was reached, however the search ended."""
    from lrbench_hpo.cli import tables

    console.print(tables.trials(study))
    if unstored:
        _rescue(console, unstored)
    if json_file:
        _write_json(Path(json_file), results(study))


def _rescue(console: Console, unstored: Sequence[Run]) -> None:
    """Write runs that the LR database did not take to a file."""
    name = f"lrbench-unstored-{os.getpid()}.json"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            _write_json(folder / name, [run.to_dict() for run in unstored])
        except LRBenchError:
            continue
        _say(
            console,
            f"the LR database did not take {len(unstored)} results: they are in {folder / name}; "
            "db.add(*map(lrbench_hpo.Run.from_dict, json.load(open(FILE)))) stores them",
        )
        return
    _say(console, f"{len(unstored)} results could not be stored or written: no space is left")


def _test(
    console: Console, study: optuna.Study, objective: Objective, json_file: str | None
) -> None:
    from lrbench_hpo.cli import tables

    if objective.must_train_again(study):
        _say(console, "the winner is trained again, for its weights are not at hand")
    measured = objective.test(study)
    top1 = tables.share(measured["top1"])
    _say(console, f"the winner on the test split, measured once: Top-1 {top1}")
    if json_file:
        _write_json(Path(json_file), results(study))


def _print_how_to_go_on(console: Console, study: optuna.Study, storage: str | None) -> None:
    kept = "the LR database" + (f" and in study {study.study_name!r}" if storage else "")
    _say(
        console,
        f"stopped; finished trials are kept in {kept}. Run the same command again to go on: it "
        "starts from them.",
    )


def results(study: optuna.Study) -> dict[str, Any]:
    """All of a study as JSON types: its task, its trials best first, and the test of the winner."""
    from lrbench_hpo.outcomes import ranked_trials
    from lrbench_hpo.study_settings import StudySettings

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

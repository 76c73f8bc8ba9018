"""``tune``: the main job, from two names to a ranked table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrbench_hpo.cli import options

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from lrbench_hpo.objective import Objective
    from lrbench_hpo.study import StudySettings

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
    import optuna

    from lrbench_hpo.cli import tables
    from lrbench_hpo.cli.progress import StudyProgress
    from lrbench_hpo.objective import Objective
    from lrbench_hpo.study import StudySettings, create_study

    # Its warnings come with a traceback for every trial that Ctrl-C or an error ends.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    training = {name: settings.pop(name) for name in _OF_TRAINING}
    objective = Objective(dataset, model, database=database, seed=seed, **training)
    study = create_study(
        objective.dataset_name,
        model,
        database=objective.database,
        storage=storage,
        study_name=study_name or (f"{objective.dataset_name}-{model}" if storage else None),
        load_if_exists=True,
        task=objective.task_details,
        seed=seed,
        **settings,
    )
    objective.prepare(study)
    of_study = StudySettings.of(study)
    console = tables.console()
    _print_start(console, of_study, study)
    interrupted = False
    with StudyProgress(console, trials, of_study.scale.max_iterations) as progress:
        objective.on_progress = progress.moved
        try:
            study.optimize(objective, n_trials=trials, callbacks=[progress.finished])
        except KeyboardInterrupt:
            interrupted = True
    unstored = objective.close()
    _print_results(console, study, None if interrupted else objective)
    if json_file:
        Path(json_file).write_text(json.dumps(results(study), indent=2) + "\n", encoding="utf-8")
    if unstored:
        console.print(f"{unstored} results are not in the LR database: see the warnings above")
    if interrupted:
        _print_how_to_go_on(console, study, storage)
        sys.exit(130)


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise click.UsageError(f"--json {path}: expected a file in a folder that exists")


def _print_start(console: Console, settings: StudySettings, study: optuna.Study) -> None:
    task, scale = settings.task, settings.scale
    done = len(study.get_trials(deepcopy=False)) - len(
        study.get_trials(deepcopy=False, states=(_waiting_state(),))
    )
    lines = [
        f"{task.dataset} / {task.model}: {scale.max_iterations:,} iterations a trial, batch "
        f"{task.batch_size}, {task.optimizer}, reference LR {scale.reference_lr:g} "
        f"({settings.reference_origin})",
        f"going on with study {study.study_name!r} after {done} trials"
        if done
        else settings.summary,
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _waiting_state() -> optuna.trial.TrialState:
    import optuna

    return optuna.trial.TrialState.WAITING


def _print_results(console: Console, study: optuna.Study, objective: Objective | None) -> None:
    from lrbench_hpo.cli import tables
    from lrbench_hpo.errors import StudyError

    console.print(tables.trials(study))
    if objective is None:
        return
    try:
        test = objective.test(study)
    except StudyError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return
    if test is not None:
        line = f"the winner on the test split, measured once: Top-1 {tables.share(test['top1'])}"
        console.print(line, markup=False, highlight=False)


def _print_how_to_go_on(console: Console, study: optuna.Study, storage: str | None) -> None:
    kept = "the LR database" + (f" and in study {study.study_name!r}" if storage else "")
    console.print(
        f"stopped; finished trials are kept in {kept}. Run the same command again to go on: it "
        "starts from them.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def results(study: optuna.Study) -> dict[str, Any]:
    """All of a study as JSON types: its task, its trials best first, and the test of the winner."""
    from lrbench_hpo.objective import ranked_trials
    from lrbench_hpo.study import StudySettings

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

"""``tune`` in this process: one trial after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lrbench_hpo.cli import study_output, tables
from lrbench_hpo.cli.job import Job
from lrbench_hpo.cli.search_start import measured_here, search_settings
from lrbench_hpo.errors import StudyError

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from lrbench_hpo.records.run import Run
    from lrbench_hpo.study.objective import Objective

INTERRUPTED = 130


def tune_local(job: Job) -> int:
    """Run a job; the exit status."""
    if job.study_name and not job.storage:
        raise click.UsageError("--study-name names a study in a storage: give --storage too")
    console = tables.console()
    objective, study = _prepare(console, job)
    budget = study_output.print_start(console, study)
    unstored: tuple[Run, ...] = ()
    try:
        interrupted = _optimize(console, study, objective, job, budget)
    finally:
        unstored = objective.close()
        study_output.finish(console, study, unstored, objective.store.file, job.json_file)
    if interrupted:
        study_output.print_how_to_go_on(console, study.study_name if job.storage else None)
        return INTERRUPTED
    if objective.must_train_again(study):
        study_output.say(console, study_output.TRAINED_AGAIN)
    objective.test(study)
    study_output.print_test(console, study, job.json_file)
    return 1 if unstored else 0


def _prepare(console: Console, job: Job) -> tuple[Objective, optuna.Study]:
    """Load the data, open the study, build the network: all that can fail before a trial."""
    import optuna

    from lrbench_hpo.study.create import create_study
    from lrbench_hpo.study.objective import Objective

    # Its warnings come with a traceback for every trial that Ctrl-C or an error ends.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = Objective(job.dataset, job.model, database=job.database, **job.training)
    settings = search_settings(
        *(console, job, objective.dataset_name, objective.task_details, objective.database),
        lambda budget: measured_here(console, job, objective.database, budget),
    )
    name = f"{objective.dataset_name}-{job.model}" if job.storage else None
    pruner = None
    if job.early_stopping:
        from lrbench_hpo.study.pruner import LRMinimaPruner

        pruner = LRMinimaPruner()
    study = create_study(
        objective.dataset_name,
        job.model,
        database=objective.database,
        storage=job.storage,
        study_name=job.study_name or name,
        load_if_exists=True,
        task=objective.task_details,
        seed=job.training["seed"],
        pruner=pruner,
        **settings,
    )
    objective.prepare(study)
    return objective, study


def _optimize(
    console: Console,
    study: optuna.Study,
    objective: Objective,
    job: Job,
    budget: int,
) -> bool:
    """Run the trials; whether Ctrl-C broke them off."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if job.population is None:
            _one_by_one(console, study, objective, job, budget)
        else:
            _together(console, study, objective, job, budget)
    except KeyboardInterrupt:
        return True
    except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StudyError(f"--storage {job.storage}: {reason}") from None
    return False


def _one_by_one(
    console: Console, study: optuna.Study, objective: Objective, job: Job, budget: int
) -> None:
    from lrbench_hpo.cli.progress import StudyProgress

    with StudyProgress(console, job.trials, budget) as progress:
        objective.on_progress = progress.moved
        # Trials that recall a stored result come on top, but not without end.
        study.optimize(objective, 3 * job.trials + 10, callbacks=[progress.finished])


def _together(
    console: Console, study: optuna.Study, objective: Objective, job: Job, budget: int
) -> None:
    from lrbench_hpo.cli.progress import PopulationProgress
    from lrbench_hpo.study.population import PopulationSearch, open_workers

    size = job.population or None
    workers = open_workers(study, objective, size, job.executor, job.processes, most=job.trials)
    for note in workers.notes:
        study_output.say(console, note)
    with PopulationProgress(console, job.trials, budget) as progress:
        search = PopulationSearch(
            study, objective, workers, [lambda _, trial: progress.over(trial)]
        )
        objective.on_progress = progress.moved
        try:
            search.run(job.trials)
        finally:
            search.close()
    study_output.print_saved(
        console, workers.trained_iterations, workers.saved_iterations, search.spared
    )

"""``tune`` on this machine, without Ray."""

from __future__ import annotations

import click
import optuna
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from lrbench_hpo.cli import study_output, tables
from lrbench_hpo.cli.job import Job
from lrbench_hpo.cli.messages import INTERRUPTED
from lrbench_hpo.cli.search_start import range_test_here, with_reference_lr
from lrbench_hpo.cli.study_progress import PopulationProgress, StudyProgress
from lrbench_hpo.errors import StudyError
from lrbench_hpo.records.run import Run
from lrbench_hpo.study.create import create_study
from lrbench_hpo.study.objective import Objective
from lrbench_hpo.study.population import PopulationSearch, open_workers
from lrbench_hpo.study.pruner import LRMinimaPruner


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
        study_output.print_how_to_resume(console, study.study_name if job.storage else None)
        return INTERRUPTED
    if objective.must_train_again(study):
        tables.print_line(console, study_output.TRAINED_AGAIN)
    objective.test(study)
    study_output.print_test(console, study, job.json_file)
    return 1 if unstored else 0


def _prepare(console: Console, job: Job) -> tuple[Objective, optuna.Study]:
    """Load the data, open the study, build the network: all that can fail before a trial."""
    # Its warnings come with a traceback for every trial that Ctrl-C or an error ends.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective = Objective(job.dataset, job.model, database=job.database, **job.training)
    settings = with_reference_lr(
        console,
        job,
        objective.dataset_name,
        objective.task_details,
        objective.database,
        measure=lambda budget: range_test_here(console, job, objective.database, budget),
    )
    name = f"{objective.dataset_name}-{job.model}" if job.storage else None
    study = create_study(
        objective.dataset_name,
        job.model,
        database=objective.database,
        storage=job.storage,
        study_name=job.study_name or name,
        load_if_exists=True,
        task=objective.task_details,
        seed=job.training["seed"],
        pruner=LRMinimaPruner() if job.population.early_stopping else None,
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
    """Run the trials; whether Ctrl-C interrupted them."""
    try:
        if job.population.size is None:
            _optimize_one_by_one(console, study, objective, job, budget)
        else:
            _optimize_together(console, study, objective, job, budget)
    except KeyboardInterrupt:
        return True
    except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StudyError(f"--storage {job.storage}: {reason}") from None
    return False


def _optimize_one_by_one(
    console: Console, study: optuna.Study, objective: Objective, job: Job, budget: int
) -> None:
    with StudyProgress(console, job.trials, budget) as progress:
        objective.on_progress = progress.moved
        # Trials that recall a stored result come on top, but not without end.
        study.optimize(objective, 3 * job.trials + 10, callbacks=[progress.finished])


def _optimize_together(
    console: Console, study: optuna.Study, objective: Objective, job: Job, budget: int
) -> None:
    options = job.population
    workers = open_workers(
        study,
        objective,
        options.size or None,
        options.executor,
        options.processes,
        most=job.trials,
    )
    for note in workers.notes:
        tables.print_line(console, note)
    with PopulationProgress(console, job.trials, budget) as progress:
        search = PopulationSearch(
            study, objective, workers, [lambda _, trial: progress.ended(trial)]
        )
        objective.on_progress = progress.moved
        try:
            search.run(job.trials)
        finally:
            search.close()
    study_output.print_saved(
        console, workers.trained_iterations, workers.saved_iterations, search.spared
    )

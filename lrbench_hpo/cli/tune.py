"""``tune``: the main command, from two names to a ranked table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lrbench_hpo.cli import options
from lrbench_hpo.cli.job import Job
from lrbench_hpo.cli.json_file import check_writable

_OF_TRAINING = ("data", "download", "device", "amp")


@click.command()
@options.task
@click.option("--trials", default=20, show_default=True, help="How many policies to train.")
@click.option("--objective", default="score", show_default=True, help="score or pareto.")
@click.option("--data", metavar="DIR", help="Folder of the data set. Default: LRBENCH_DATA.")
@click.option("--download", is_flag=True, help="Let torchvision download a missing data set.")
@click.option(
    "--storage",
    metavar="URL",
    help="Optuna storage, to resume the study or to search in parallel; with --ray, a folder or "
    "URL that all nodes can write to.",
)
@click.option("--study-name", metavar="S", help="Name of the study in the storage.")
@click.option("--seed", default=0, show_default=True, help="Of weights, data order and sampler.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--amp", is_flag=True, help="Train in bfloat16 where it is safe.")
@click.option(
    "--no-range-test",
    "range_test",
    flag_value=False,
    default=True,
    help="Run no LR range test, even where the LR scale is unknown.",
)
@click.option("--json", "json_file", metavar="FILE", help="Also write all results as JSON.")
@options.population
@options.ray
def tune(
    dataset: str,
    model: str,
    trials: int,
    storage: str | None,
    study_name: str | None,
    json_file: str | None,
    database: str | None,
    range_test: bool,
    **settings: Any,
) -> None:
    """Tune the LR policy of MODEL on DATASET from known results.

    The known results are those in the LR database. DATASET is digits (no download), mnist,
    fashionmnist, kmnist, cifar10, cifar100, svhn, an .npz file or a folder of images; MODEL is
    lenet, cnn3, mlp, resnet20 to resnet110, torchvision:NAME or package.module:factory.
    """
    if trials < 1:
        raise click.UsageError(f"--trials {trials}: expected at least 1")
    if json_file:
        check_writable(Path(json_file))
    training = {name: settings.pop(name) for name in _OF_TRAINING}
    ray = options.take_ray_options(settings)
    population = options.take_population_options(settings, on_ray=ray is not None)
    job = Job(
        dataset=dataset,
        model=model,
        trials=trials,
        training={**training, "seed": settings.pop("seed")},
        storage=storage,
        study_name=study_name,
        json_file=json_file,
        database=database,
        settings=settings,
        range_test=range_test,
        population=population,
    )
    # Only here: Ray is an extra and takes seconds to load, and --help needs neither.
    if ray is None:
        from lrbench_hpo.cli.tune_local import tune_local

        sys.exit(tune_local(job))
    from lrbench_hpo.cli.tune_ray import tune_ray

    sys.exit(tune_ray(job, ray))

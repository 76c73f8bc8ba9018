"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from lrbench_hpo.cli.job import PopulationOptions, RayOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [name.strip() for name in value.split(",")]


def _members(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Parse a number of members; 0 stands for as many as pay."""
    if value is None or value == "auto":
        return None if value is None else 0
    if not value.isdecimal() or int(value) < 1:
        raise click.UsageError(
            f"--population {value}: expected a whole number of at least 1, or auto"
        )
    return int(value)


def no_password(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a database URL with a password, which all users could read in the process list.

    Raises:
        click.UsageError: for such a URL.
    """
    if value is None:
        return None
    # Only here: the database layer takes half a second to load, and --help does not need it.
    from lrbench_hpo.database.location import has_password

    if has_password(value):
        name = parameter.opts[0]
        place = ", or the whole URL in LRBENCH_DATABASE_URL" if name == "--database" else ""
        raise click.UsageError(
            f"{name}: a password on the command line can be read by everybody on this machine: put "
            f"it in ~/.pgpass{place}"
        )
    return value


def _functions(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | list[str] | None:
    if value is None or value.lower() == "all":
        return value
    return _names(context, option, value)


_TASK: Sequence[Callable[[Any], Any]] = (
    click.argument("dataset"),
    click.argument("model"),
    click.option("--max-iterations", "-T", type=int, help="Budget of a run, in iterations."),
    click.option("--batch-size", type=int, help="Images in an iteration."),
    click.option("--optimizer", help="sgd, nesterov, adam or adamw."),
    click.option(
        "--functions",
        callback=_functions,
        help="LR functions to choose from, with commas between, or 'all' for every one.",
    ),
    click.option("--search-space", metavar="FILE", help="Your own search space (YAML)."),
    click.option(
        "--reference-lr", type=float, help="The task's best constant LR, which peaks relate to."
    ),
    click.option(
        "--trust",
        "trusted_sources",
        metavar="SOURCES",
        callback=_names,
        help="Start from runs of these sources only, with commas between. Default: all.",
    ),
)

database = click.option(
    "--database",
    metavar="URL",
    callback=no_password,
    help="The LR database: a file or URL. Default: LRBENCH_DATABASE_URL, else a file of your own.",
)


_RAY: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--ray",
        "ray_address",
        metavar="[ADDRESS]",
        is_flag=False,
        flag_value="",
        help="Run the trials on Ray: on the cluster at ADDRESS (auto, host:port) or "
        "RAY_ADDRESS; else on a Ray of one's own on this machine.",
    ),
    click.option("--cpus-per-trial", type=float, help="With --ray: CPUs and threads. Default: 1."),
    click.option(
        "--gpus-per-trial",
        type=float,
        help="With --ray: a fraction shares a GPU. Default: 1 where there are GPUs.",
    ),
    click.option(
        "--max-concurrent", type=int, help="With --ray: trials at once. Default: all that fit."
    ),
    click.option(
        "--scheduler",
        metavar="NAME",
        help="With --ray: asha (stops trials that are behind) or none. Default: none.",
    ),
)


def ray(command: _Command) -> _Command:
    """Add the options of a search on Ray."""
    for decorate in reversed(_RAY):
        command = decorate(command)
    return command


def take_ray_options(settings: dict[str, Any]) -> RayOptions | None:
    """Take the options of `ray` out of a command's arguments; None without ``--ray``.

    Raises:
        click.UsageError: for one of them without ``--ray``.
    """
    address = settings.pop("ray_address")
    given = {
        name: settings.pop(name)
        for name in ("cpus_per_trial", "gpus_per_trial", "max_concurrent", "scheduler")
    }
    if address is None:
        for name, value in given.items():
            if value is not None:
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"{option} {value}: for trials on Ray: add --ray")
        return None
    return RayOptions(
        address or None,
        given["cpus_per_trial"],
        given["gpus_per_trial"],
        given["max_concurrent"],
        given["scheduler"] or "none",
    )


_POPULATION: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--population",
        metavar="K",
        callback=_members,
        help="Train K policies at a time, or as many as pay (auto), on all cores: one stream of "
        "data, shared beginnings trained once, losers stopped. Default: one after the other.",
    ),
    click.option(
        "--executor",
        metavar="NAME",
        help="With --population: stream (networks in turn), stacked (one network for all) or "
        "auto, the faster one. Default: auto.",
    ),
    click.option(
        "--processes",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --population: processes that share it. Default: one a core, on a GPU one; with "
        "--population auto, one where a network on all cores is nearly as fast.",
    ),
    click.option(
        "--early-stopping/--no-early-stopping",
        default=None,
        help="Stop policies that have no chance left, judged at LR minima alone. Default: with "
        "--population and --objective score.",
    ),
)


def population(command: _Command) -> _Command:
    """Add the options that train the trials of a search together."""
    for decorate in reversed(_POPULATION):
        command = decorate(command)
    return command


def take_population_options(settings: dict[str, Any], *, on_ray: bool) -> PopulationOptions:
    """Take the options of `population` out of a command's arguments.

    Raises:
        click.UsageError: for one that has no effect without another, with several objectives, or
            on Ray.
    """
    names = ("population", "executor", "processes", "early_stopping")
    given = {name: settings.pop(name) for name in names}
    for name in ("executor", "processes"):
        if given[name] is not None and given["population"] is None:
            raise click.UsageError(
                f"--{name} {given[name]}: for trials that are trained together: add --population"
            )
    if on_ray and given["processes"] is not None:
        raise click.UsageError(
            f"--processes {given['processes']}: Ray decides where a population trains: leave it "
            "out with --ray"
        )
    if on_ray and given["early_stopping"] and given["population"] is None:
        raise click.UsageError(
            "--early-stopping: single trials on Ray are stopped by its schedulers: give "
            "--scheduler asha, or --population"
        )
    stopping, several = given["early_stopping"], settings["objective"] == "pareto"
    if stopping and several:
        raise click.UsageError(
            "--early-stopping --objective pareto: a trial with a low score may still be on the "
            "front, so no trial is stopped: leave out --early-stopping, or give --objective score"
        )
    if stopping is None:
        stopping = given["population"] is not None and not several
    return PopulationOptions(
        given["population"], given["executor"] or "auto", given["processes"], bool(stopping)
    )


def task(command: _Command) -> _Command:
    """Add DATASET MODEL and the options that describe a search on them."""
    for decorate in reversed((*_TASK, database)):
        command = decorate(command)
    return command

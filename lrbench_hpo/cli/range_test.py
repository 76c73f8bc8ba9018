"""``range-test``: the reference LR of a task, from a few short runs with a rising LR."""

from __future__ import annotations

import json
import shlex
from typing import Any

import click

from lrbench_hpo.cli import options, plots, tables
from lrbench_hpo.cli.progress import range_test_progress
from lrbench_hpo.lr_range import stored
from lrbench_hpo.records.range_test import RangeTest


@click.command("range-test")
@click.argument("dataset")
@click.argument("model")
@click.option("--max-iterations", "-T", type=int, help="Budget of a trial, in iterations.")
@click.option("--batch-size", type=int, help="Images in an iteration.")
@click.option("--optimizer", help="sgd, nesterov, adam or adamw.")
@click.option(
    "--method",
    default="smith",
    show_default=True,
    help="smith (a ladder of LRs), or coarse (a short training for each of 0.1, 0.01, ...).",
)
@click.option("--runs", type=int, help="Ladders to climb. Default: up to 3, as the budget allows.")
@click.option("--low", type=float, help="The first LR of the ladder.")
@click.option("--high", type=float, help="Its last LR.")
@click.option("--plot", "picture", metavar="FILE", help="Draw it: a .png or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@click.option("--data", metavar="DIR", help="Folder of the data set. Default: LRBENCH_DATA.")
@click.option("--download", is_flag=True, help="Let torchvision download a missing data set.")
@click.option("--seed", default=0, show_default=True, help="Of weights, data order and split.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--amp", is_flag=True, help="Train in bfloat16 where it is safe.")
@click.option("--no-store", "store", flag_value=False, default=True, help="Do not store it.")
@options.database
def range_test(
    dataset: str, model: str, picture: str | None, as_json: bool, **settings: Any
) -> None:
    """Estimate the best constant LR of MODEL on DATASET.

    Also the LRs that are usable. The test is a few short runs whose LR rises after every update;
    it costs at most half of one trial. The result is kept in the LR database. DATASET and MODEL
    are as for tune.
    """
    if picture is not None:
        plots.checked_path(picture)
    console = tables.console()
    with range_test_progress(console, quiet=as_json) as on_progress:
        result = stored.range_test(dataset, model, on_progress=on_progress, **settings)
    if picture is not None:
        title = f"LR range test of {dataset} / {model}"
        plots.plot_range_test(result, picture, title=title)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    for line in _lines(dataset, model, result):
        tables.print_line(console, line)
    if picture is not None:
        click.echo(f"wrote {picture}")
    click.echo(f"next: {_next_command(dataset, model, result, settings)}")


def _lines(dataset: str, model: str, result: RangeTest) -> list[str]:
    budget = result.max_iterations or 1
    share = f"{100 * result.iterations / budget:.0f} % of one trial of {budget:,}"
    runs = sum(map(bool, result.lrs)) if result.method != "coarse" else len(result.lrs[0])
    what = "run" if result.method != "coarse" else "training"
    found = [
        f"LR range test of {dataset} / {model} ({result.method})",
        f"  reference LR  {result.reference_lr:.3g}, known to within a factor of "
        f"{result.spread:.2g}",
        f"  usable LRs    {result.low:.2g} to {result.high:.2g}",
        f"  cost          {result.iterations:,} iterations, {share}"
        f" ({runs} {what}{'s' if runs > 1 else ''})",
    ]
    return [*found, *(f"  note          {note}" for note in result.notes)]


def _next_command(dataset: str, model: str, result: RangeTest, settings: dict[str, Any]) -> str:
    words = ["lrbench-hpo", "tune", dataset, model, "--reference-lr", f"{result.reference_lr:.3g}"]
    for name in ("max_iterations", "batch_size", "optimizer", "data", "database"):
        if settings[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    return shlex.join(words)

"""``db import-optuna``, ``db import-ray``, ``db import-logs``: results of other tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import sqlalchemy as sa

from lrbench_hpo.checks import printable
from lrbench_hpo.cli import options, tables
from lrbench_hpo.cli.exchange_output import Bar, show_import
from lrbench_hpo.cli.messages import print_error
from lrbench_hpo.database import Database, connect
from lrbench_hpo.database.failures import shown
from lrbench_hpo.errors import DatabaseError
from lrbench_hpo.exchange.importing import ImportReport, checked_source, import_rows
from lrbench_hpo.exchange.originals import Originals
from lrbench_hpo.exchange.quarantine import Quarantine
from lrbench_hpo.exchange.rows import UNKNOWN_TIME, ExchangeError, Found, Rejected
from lrbench_hpo.exchange.tools import logs, optuna_study, ray_results
from lrbench_hpo.exchange.translation import Translation
from lrbench_hpo.records.run import utc_timestamp

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Rows = Callable[[Callable[[str], object]], Iterator[Found | Rejected]]


def _pairs(_: click.Context, option: click.Parameter, value: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in value:
        name, equals, target = text.rpartition("=")
        if not (name and equals and target):
            raise click.BadParameter(f"{text!r}: expected NAME=VALUE", param=option)
        if name in pairs:
            raise click.BadParameter(f"{name!r} is there twice", param=option)
        pairs[name] = target
    return pairs


def _constants(
    context: click.Context, option: click.Parameter, value: Sequence[str]
) -> dict[str, Any]:
    constants: dict[str, Any] = {}
    for name, text in _pairs(context, option, value).items():
        try:
            constants[name] = json.loads(text)
        except (ValueError, RecursionError):
            constants[name] = text
    return constants


_FOREIGN: Sequence[Callable[[Any], Any]] = (
    options.database,
    click.option("--dataset", metavar="NAME", help="The data set, if the results do not name it."),
    click.option("--model", metavar="NAME", help="The model, if the results do not name it."),
    click.option(
        "--map",
        "mapping",
        metavar="THEIRS=OURS",
        multiple=True,
        callback=_pairs,
        help="The meaning of a name of theirs: k0, k1, gamma, l, l_epochs, p, function, "
        "max_iterations, epochs, iteration, seed, top1, task.batch_size, ...; may be repeated.",
    ),
    click.option(
        "--set",
        "constants",
        metavar="OURS=VALUE",
        multiple=True,
        callback=_constants,
        help="A value that the results do not hold, such as k1=0 or task.optimizer=sgd.",
    ),
    click.option("--max-iterations", "-T", type=int, help="Budget of a run, in iterations."),
    click.option(
        "--iterations-per-epoch", type=float, help="Converts their epochs into iterations."
    ),
    click.option("--percent", is_flag=True, help="Accuracies are per cent, not shares."),
    click.option(
        "--split",
        type=click.Choice(["train", "validation", "test"]),
        default="validation",
        show_default=True,
        help="Split that accuracy was measured on.",
    ),
    click.option("--source", metavar="NAME", help="Store the runs under this source."),
    click.option(
        "--created-at",
        metavar="TIME",
        help="Time to store for results that name none, such as 2026-03-01T12:00Z.",
    ),
    click.option("--dry-run", is_flag=True, help="Only show what would be stored."),
)
_POLICY: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--function",
        default="FIX",
        show_default=True,
        help="The LR function, if no parameter of theirs names it.",
    ),
    click.option(
        "--metric",
        default="top1",
        show_default=True,
        help="The metric that is the value of a trial.",
    ),
)


def _translation_options(*more: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for decorate in reversed((*more, *_FOREIGN)):
            command = decorate(command)
        return command

    return add


@click.command("import-optuna")
@click.argument("storage", callback=options.no_password)
@click.option("--study", metavar="NAME", help="The study; may be left out if there is only one.")
@_translation_options(*_POLICY)
def import_optuna(
    storage: str, study: str | None, database: str | None, dry_run: bool, **settings: Any
) -> None:
    """Store the finished trials of an Optuna study.

    STORAGE is a URL of Optuna's, or a file. A study of lrbench-hpo needs no options. For any other
    one, --map names the parameters that make the policy: --map lr=k0 --map schedule=function. User
    attributes are mapped in the same way, and value0, value1, ... of several objectives. Steps
    that count epochs make a curve only with --iterations-per-epoch; --map step=iteration declares
    that they count iterations. Trials that have not ended are left out. Nothing is written to the
    study.
    """
    opened = optuna_study.open_study(storage, study)
    translation = _translation_from_options(settings)
    name = _shown(storage)
    label = name if study is None else f"{name} {opened.study_name}"
    notes: list[str] = []

    def rows(left_out: Callable[[str], object]) -> Iterator[Found | Rejected]:
        return optuna_study.read(
            opened, translation=translation, left_out=left_out, notify=notes.append
        )

    _import([(label, rows)], database, translation, dry_run, notes)


@click.command("import-ray")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_translation_options(*_POLICY)
def import_ray(
    folders: tuple[str, ...], database: str | None, dry_run: bool, **settings: Any
) -> None:
    """Store the finished trials of Ray Tune experiments.

    DIR is a folder that holds trials. Trials of lrbench_hpo.train need no options. For others,
    --map names the entries of config and reports, with / between levels: --map optimizer/lr=k0
    --map mean_accuracy=top1. Ray need not be installed, and pickles are never read.
    """
    translation = _translation_from_options(settings)

    def rows(folder: str) -> _Rows:
        return lambda left_out: ray_results.read(folder, translation, left_out=left_out)

    _import([(folder, rows(folder)) for folder in folders], database, translation, dry_run)


@click.command("import-logs")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--lr-column", metavar="NAME", help="The LR's name, where several could be it.")
@_translation_options()
def import_logs(
    folders: tuple[str, ...],
    database: str | None,
    lr_column: str | None,
    dry_run: bool,
    **settings: Any,
) -> None:
    """Store runs from training logs of TensorBoard or in CSV.

    DIR is a folder with logs in or below it. The policy is the LR function that reproduces the
    logged learning rates. A log is rejected if no function reproduces them, or if it has too few
    of them to tell several functions apart. Accuracy and losses are found by their names, or by
    --map. A log that ends before --max-iterations, by more than a twentieth and more than one
    logging interval, is stored as pruned.
    """
    translation = _translation_from_options(settings)

    def rows(folder: str) -> _Rows:
        return lambda _: logs.read(folder, translation, lr_column=lr_column)

    _import([(folder, rows(folder)) for folder in folders], database, translation, dry_run)


def _translation_from_options(settings: dict[str, Any]) -> Translation:
    if settings["source"] is not None:
        checked_source(settings["source"])
    return Translation(**settings)


def _shown(location: str) -> str:
    """The URL of a storage without its password."""
    if "://" not in location or location.startswith("journal:"):
        return location
    return shown(sa.make_url(location))


def _import(
    inputs: Sequence[tuple[str, _Rows]],
    database: str | None,
    translation: Translation,
    dry_run: bool,
    notes: Sequence[str] = (),
) -> None:
    """Store the runs of the inputs, or show them; end the command with its exit status."""
    reports: list[ImportReport] = []
    undated: list[str] = []
    unread = 0
    db = None if dry_run else connect(database)
    try:
        for name, read in inputs:
            try:
                reports.append(_import_one(db, name, read, translation.source, undated))
            except ExchangeError as error:
                if len(inputs) == 1:
                    raise
                unread += 1
                print_error(error)
            except DatabaseError:  # ends the command; report what was imported before
                show_import(reports, unread=unread)
                raise
            if reports and reports[-1].interrupted:
                break
    finally:
        if db is not None:
            db.close()
    status = show_import(reports, unread=unread, dry_run=dry_run)
    for note in notes:
        click.echo(note, err=True)
    if undated:
        again = "" if dry_run else ", after db forget has taken these out"
        click.echo(
            f"{len(undated):,} runs have no time, and are dated 1970-01-01: --created-at TIME "
            f"gives them one{again}",
            err=True,
        )
    sys.exit(status)


def _import_one(
    db: Database | None, name: str, read: _Rows, source: str | None, undated: list[str]
) -> ImportReport:
    unfinished: list[str] = []
    known: list[str] = []
    rows = _note_undated(read(unfinished.append), undated)
    with Bar(name) as bar:
        report = import_rows(
            db,
            _shown_rows(rows) if db is None else _not_stored(db, rows, known),
            file=name,
            checksum=None,
            source=source,
            progress=bar.at,
            quarantine=Quarantine(None) if db is None else None,
        )
    report.known += len(known)
    if unfinished:
        why = "not over, or known under another number"
        click.echo(f"{printable(name)}: {len(unfinished):,} trials left out: {why}")
    return report


def _note_undated(
    rows: Iterator[Found | Rejected], undated: list[str]
) -> Iterator[Found | Rejected]:
    """Yield the rows, and note the places of those without a time."""
    unknown = utc_timestamp(UNKNOWN_TIME)
    for row in rows:
        if isinstance(row, Found) and row.run.created_at == unknown:
            undated.append(row.place)
        yield row


def _not_stored(
    db: Database, rows: Iterator[Found | Rejected], known: list[str]
) -> Iterator[Found | Rejected]:
    """Yield the rows whose runs the tool that trained them has not stored here itself."""
    originals = Originals(db)
    for row in rows:
        if isinstance(row, Found) and originals.contains(row.run):
            known.append(row.place)
        else:
            yield row


def _shown_rows(rows: Iterator[Found | Rejected]) -> Iterator[Found | Rejected]:
    """Yield the rows, and print each as it would be stored."""
    for row in rows:
        if isinstance(row, Found):
            run = row.run
            error = run.notes.get("fit_error")
            fit = "" if error is None else f", fitted to {error:g} decades"
            click.echo(
                f"{printable(row.place)}: {run.policy}{fit}; {run.task.dataset} / "
                f"{run.task.model}, {run.max_iterations:,} iterations, {run.status}, Top-1 "
                f"{tables.share(run.metrics.get('top1'))}"
            )
        yield row

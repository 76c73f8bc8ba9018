"""``db import-optuna``, ``db import-ray``, ``db import-logs``: results that other tools keep."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lrbench_hpo.cli import options

if TYPE_CHECKING:
    from lrbench_hpo.database import Database
    from lrbench_hpo.exchange.importing import ImportReport
    from lrbench_hpo.exchange.rows import Found, Rejected
    from lrbench_hpo.exchange.translation import Translation

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Rows = Callable[[Callable[[str], object]], "Iterator[Found | Rejected]"]


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
    click.option("--dataset", metavar="NAME", help="The data set, where the results do not say."),
    click.option("--model", metavar="NAME", help="The model, where the results do not say."),
    click.option(
        "--map",
        "mapping",
        metavar="THEIRS=OURS",
        multiple=True,
        callback=_pairs,
        help="What a name of theirs is: k0, k1, gamma, l, l_epochs, p, function, max_iterations, "
        "epochs, iteration, seed, top1, task.batch_size, ...; may be given several times.",
    ),
    click.option(
        "--set",
        "constants",
        metavar="OURS=VALUE",
        multiple=True,
        callback=_constants,
        help="A value that they do not name, as k1=0 or task.optimizer=sgd.",
    ),
    click.option("--max-iterations", "-T", type=int, help="Budget of a run, in iterations."),
    click.option(
        "--iterations-per-epoch", type=float, help="What turns their epochs into iterations."
    ),
    click.option("--percent", is_flag=True, help="Accuracies are per cent, not shares."),
    click.option(
        "--split",
        type=click.Choice(["train", "validation", "test"]),
        default="validation",
        show_default=True,
        help="Where accuracy was measured.",
    ),
    click.option("--source", metavar="NAME", help="Store the runs under this source."),
    click.option(
        "--created-at", metavar="TIME", help="When, as 2026-03-01T12:00Z, if nothing says it."
    ),
    click.option("--dry-run", is_flag=True, help="Only show what would be stored."),
)
_POLICY: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--function",
        default="FIX",
        show_default=True,
        help="The LR function, where no parameter of theirs names it.",
    ),
    click.option("--metric", default="top1", show_default=True, help="What the trials' value is."),
)


def _foreign(*more: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for decorate in reversed((*more, *_FOREIGN)):
            command = decorate(command)
        return command

    return add


@click.command("import-optuna")
@click.argument("storage", callback=options.no_password)
@click.option("--study", metavar="NAME", help="The study; may be left out if there is only one.")
@_foreign(*_POLICY)
def import_optuna(
    storage: str, study: str | None, database: str | None, dry_run: bool, **said: Any
) -> None:
    """Store the finished trials of an Optuna study: a URL of Optuna's, or the file of one.

    A study made by lrbench-hpo says everything itself. Of any other one, --map says which
    parameters make the policy: --map lr=k0 --map schedule=function. User attributes are mapped in
    the same way, and value0, value1, ... of several objectives. Steps that count epochs make a
    curve with --iterations-per-epoch only; --map step=iteration says that they count iterations.
    Trials that are not over are left out. Nothing is written to the study.
    """
    from lrbench_hpo.exchange.tools import optuna_study

    opened = optuna_study.open_study(storage, study)
    foreign = _said(said)
    name = _shown(storage)
    label = name if study is None else f"{name} {opened.study_name}"
    told: list[str] = []

    def rows(left_out: Callable[[str], object]) -> Iterator[Found | Rejected]:
        return optuna_study.read(opened, translation=foreign, left_out=left_out, notify=told.append)

    _import([(label, rows)], database, foreign, dry_run, told)


@click.command("import-ray")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_foreign(*_POLICY)
def import_ray(folders: tuple[str, ...], database: str | None, dry_run: bool, **said: Any) -> None:
    """Store the finished trials of Ray Tune experiments: the folders that hold their trials.

    Trials of lrbench_hpo.train say everything themselves. Of others, --map says which names in
    config and reports are meant, with / between levels: --map optimizer/lr=k0 --map
    mean_accuracy=top1. Ray need not be installed, and pickles are never read.
    """
    from lrbench_hpo.exchange.tools import ray_results

    foreign = _said(said)

    def rows(folder: str) -> _Rows:
        return lambda left_out: ray_results.read(folder, foreign, left_out=left_out)

    _import([(folder, rows(folder)) for folder in folders], database, foreign, dry_run)


@click.command("import-logs")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--lr-column", metavar="NAME", help="The LR's name, where several could be it.")
@_foreign()
def import_logs(
    folders: tuple[str, ...],
    database: str | None,
    lr_column: str | None,
    dry_run: bool,
    **said: Any,
) -> None:
    """Store runs from training logs: folders with TensorBoard's or CSV logs in or below them.

    The policy is the LR function that reproduces the logged learning rates; a log that none
    reproduces, or that has too few of them to tell several functions apart, is rejected. Accuracy
    and losses are told by their names, or by --map. A log that ends before --max-iterations, by
    more than a twentieth and more than one logging interval, is stored as pruned.
    """
    from lrbench_hpo.exchange.tools import logs

    foreign = _said(said)

    def rows(folder: str) -> _Rows:
        return lambda _: logs.read(folder, foreign, lr_column=lr_column)

    _import([(folder, rows(folder)) for folder in folders], database, foreign, dry_run)


def _said(said: dict[str, Any]) -> Translation:
    from lrbench_hpo.exchange.importing import checked_source
    from lrbench_hpo.exchange.translation import Translation

    if said["source"] is not None:
        checked_source(said["source"])
    return Translation(**said)


def _shown(location: str) -> str:
    """A storage's URL as it may be kept."""
    import sqlalchemy as sa

    from lrbench_hpo.database.failures import shown

    if "://" not in location or location.startswith("journal:"):
        return location
    return shown(sa.make_url(location))


def _import(
    inputs: Sequence[tuple[str, _Rows]],
    database: str | None,
    foreign: Translation,
    dry_run: bool,
    told: Sequence[str] = (),
) -> None:
    """Store what the inputs hold, or show it; ends the command with its exit status."""
    from lrbench_hpo.cli.exchange_output import show_import, tell
    from lrbench_hpo.database import connect
    from lrbench_hpo.errors import DatabaseError
    from lrbench_hpo.exchange.rows import ExchangeError

    reports: list[ImportReport] = []
    undated: list[str] = []
    unread = 0
    db = None if dry_run else connect(database)
    try:
        for name, read in inputs:
            try:
                reports.append(_import_one(db, name, read, foreign.source, undated))
            except ExchangeError as error:
                if len(inputs) == 1:
                    raise
                unread += 1
                tell(error)
            except DatabaseError:  # which ends it; what came before is not passed over
                show_import(reports, unread=unread)
                raise
            if reports and reports[-1].interrupted:
                break
    finally:
        if db is not None:
            db.close()
    status = show_import(reports, unread=unread, dry_run=dry_run)
    for line in told:
        click.echo(line, err=True)
    if undated:
        again = "" if dry_run else ", after db forget has taken these out"
        click.echo(
            f"{len(undated):,} runs say no time, and are dated 1970-01-01: --created-at TIME gives "
            f"them one{again}",
            err=True,
        )
    sys.exit(status)


def _import_one(
    db: Database | None, name: str, read: _Rows, source: str | None, undated: list[str]
) -> ImportReport:
    from lrbench_hpo.checks import printable
    from lrbench_hpo.cli.exchange_output import Bar
    from lrbench_hpo.exchange.importing import import_rows
    from lrbench_hpo.exchange.quarantine import Quarantine

    unfinished: list[str] = []
    known: list[str] = []
    rows = _noted(read(unfinished.append), undated)
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


def _noted(rows: Iterator[Found | Rejected], undated: list[str]) -> Iterator[Found | Rejected]:
    """The rows; the places of those that say no time are noted."""
    from lrbench_hpo.exchange.rows import UNKNOWN_TIME, Found
    from lrbench_hpo.records.run import utc_timestamp

    unknown = utc_timestamp(UNKNOWN_TIME)
    for row in rows:
        if isinstance(row, Found) and row.run.created_at == unknown:
            undated.append(row.place)
        yield row


def _not_stored(
    db: Database, rows: Iterator[Found | Rejected], known: list[str]
) -> Iterator[Found | Rejected]:
    """The rows without runs that the tool that trained them has stored here in its own form."""
    from lrbench_hpo.exchange.originals import Originals
    from lrbench_hpo.exchange.rows import Found

    originals = Originals(db)
    for row in rows:
        if isinstance(row, Found) and originals.contains(row.run):
            known.append(row.place)
        else:
            yield row


def _shown_rows(rows: Iterator[Found | Rejected]) -> Iterator[Found | Rejected]:
    """The rows, each shown as it would be stored."""
    from lrbench_hpo.checks import printable
    from lrbench_hpo.cli import tables
    from lrbench_hpo.exchange.rows import Found

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

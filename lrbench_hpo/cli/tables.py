"""What the commands print: rich tables, wide enough for a policy even when piped to a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import optuna

    from lrbench_hpo.database import Database
    from lrbench_hpo.prior.recommendation import Recommendation

_PIPED_WIDTH = 160


def console() -> Console:
    """The terminal; wide and without colours where output goes to a file or pipe."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=_PIPED_WIDTH)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose cells are plain text: nothing in them is read as markup, or by a terminal.

    Args:
        title: what stands above it.
        columns: headings; those that begin with ``>`` are set to the right.
        rows: cells, one for each column.
    """
    made = Table(title=Text(title), title_justify="left")
    for column in columns:
        made.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    for row in rows:
        made.add_row(*map(_shown, row))
    return made


def _shown(cell: str) -> Text:
    if not cell.isprintable():
        from lrbench_hpo.checks import printable

        cell = printable(cell)
    return Text(cell)


def share(value: float | None) -> str:
    """A share as per cent, or a dash."""
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, or a dash."""
    return "-" if value is None else format(value, form)


def recommendations(title: str, found: Sequence[Recommendation]) -> Table:
    """Policies with their evidence, best first."""
    rows = [(str(rank), str(entry.policy), entry.why) for rank, entry in enumerate(found, start=1)]
    return table(title, (">#", "policy", "why"), rows)


def trials(study: optuna.Study) -> Table:
    """The trials of a study, best first, each with where it came from."""
    from lrbench_hpo.policies import LRPolicy
    from lrbench_hpo.study.results import ranked_trials

    found_trials = ranked_trials(study)
    rows = []
    for rank, trial in zip(_ranks(found_trials), found_trials, strict=True):
        found = trial.user_attrs
        complete = found["status"] == "complete"
        rows.append(
            (
                rank,
                str(trial.number),
                str(LRPolicy.from_dict(found["policy"])),
                f"{found['score']:.4f}" if complete else found["status"],
                share(found.get("top1")),
                number(found.get("iterations_to_best")),
                number(found.get("loss_difference"), "+.4f"),
                str(found["source"]),
            )
        )
    columns = ("#", "trial", "policy", "score", "Top-1", "iterations to best", "loss difference")
    headings = [f">{name}" if name != "policy" else name for name in columns]
    title = "Trials by score on the validation split; those within its noise share a rank"
    return table(title, (*headings, "from"), rows)


def _ranks(ranked: Sequence[optuna.trial.FrozenTrial]) -> list[str]:
    """Ranks of trials, best first: one evaluation cannot tell near scores apart."""
    from lrbench_hpo.policies import LRPolicy
    from lrbench_hpo.records.ranking import PolicyResult, rank_policies

    complete = [trial.user_attrs for trial in ranked if trial.user_attrs["status"] == "complete"]
    results = [PolicyResult(LRPolicy.from_dict(a["policy"]), a["score"]) for a in complete]
    samples = [a["evaluation_samples"] for a in complete if a.get("evaluation_samples")]
    places = rank_policies(results, min(samples, default=None))
    return [str(place.rank) for place in places] + ["-"] * (len(ranked) - len(complete))


def database_stats(database: Database) -> Table:
    """What an LR database holds."""
    stats = database.stats()
    size = "-" if stats.size_bytes is None else f"{stats.size_bytes / 1024:,.0f} KiB"
    rows = [
        ("location", stats.location),
        ("size", size),
        ("schema version", str(stats.schema_version)),
        ("runs", f"{stats.runs:,}"),
        ("tasks", f"{stats.tasks:,}"),
        ("LR range tests", f"{stats.range_tests:,}"),
        *((f"runs from {source}", f"{count:,}") for source, count in stats.by_source.items()),
        *((f"runs {status}", f"{count:,}") for status, count in stats.by_status.items()),
    ]
    return table("LR database", ("what", ">value"), rows)

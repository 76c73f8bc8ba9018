"""Draw the picture of docs/database.md from the tables: ``python docs/draw_database.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

import sqlalchemy as sa

from lrbench_hpo.database import tables

FILE = Path(__file__).parent / "images" / "database.svg"
# Where tables stand: columns of the picture, from left to right, and the tables in each.
PLACES = (
    ("lrbench_tasks", "lrbench_schema"),
    ("lrbench_runs",),
    ("lrbench_curves", "lrbench_origins", "lrbench_range_tests"),
)
WIDTH, GAP, LINE, MARGIN, BETWEEN = 215, 75, 17, 12, 34  # of a table, between them, of a line
KINDS = {"INTEGER": "integer", "BIGINT": "integer", "DOUBLE": "double", "TEXT": "text"}
STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#222}.name{font-weight:bold}"
    ".kind{fill:#777}.box{fill:#fff;stroke:#888}.head{fill:#e6edf5;stroke:#888}"
    ".line{fill:none;stroke:#3b6ea5;stroke-width:1.5}"
)


def kind(column: sa.Column[object]) -> str:
    """A column's type in a word, with a mark where it may be null."""
    name = str(column.type.compile()).partition("(")[0]
    word = {"VARCHAR": "text", "BLOB": "bytes"}.get(name) or KINDS.get(name, name.lower())
    return word + ("?" if column.nullable else "")


def places() -> dict[str, tuple[int, int]]:
    """The upper left corner of each table."""
    found = {}
    for number, stack in enumerate(PLACES):
        y = MARGIN
        for name in stack:
            found[name] = MARGIN + number * (WIDTH + GAP), y
            y += LINE * (len(tables.metadata.tables[name].columns) + 1) + BETWEEN
    missing = set(tables.metadata.tables) - set(found)
    if missing:
        raise SystemExit(f"no place for {', '.join(sorted(missing))}: add it to PLACES")
    return found


def height(column: sa.Column[object], top: int) -> float:
    """The middle of a column's line."""
    return top + LINE * (list(column.table.columns).index(column) + 1.5)


def box(table: sa.Table, x: int, y: int) -> list[str]:
    """A table: its name, and a line for each column."""
    tall = LINE * (len(table.columns) + 1) + 5
    drawn = [
        f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{tall}" rx="3"/>',
        f'<rect class="head" x="{x}" y="{y}" width="{WIDTH}" height="{LINE + 2}" rx="3"/>',
        f'<text class="name" x="{x + 7}" y="{y + 14}">{escape(table.name)}</text>',
    ]
    for column in table.columns:
        base = height(column, y) + 6
        style = ' class="name"' if column.primary_key else ""
        drawn += [
            f'<text{style} x="{x + 7}" y="{base:g}">{escape(column.name)}</text>',
            f'<text class="kind" x="{x + WIDTH - 7}" y="{base:g}" '
            f'text-anchor="end">{escape(kind(column))}</text>',
        ]
    return drawn


def links(places: dict[str, tuple[int, int]]) -> list[str]:
    """A line from each foreign key to the column it names."""
    drawn = []
    for name, (x, y) in places.items():
        for column in tables.metadata.tables[name].columns:
            for key in column.foreign_keys:
                start, end = height(column, y), height(key.column, places[key.column.table.name][1])
                left = places[key.column.table.name][0]
                if left == x:  # within its own stack of tables, around the right side
                    here, there, bend = x + WIDTH, x + WIDTH, x + WIDTH + GAP // 3
                else:
                    here, there = (x, left + WIDTH) if left < x else (x + WIDTH, left)
                    bend = (here + there) // 2
                drawn.append(
                    f'<path class="line" marker-end="url(#to)" d="M{here} {start:g}'
                    f'C{bend} {start:g} {bend} {end:g} {there} {end:g}"/>'
                )
    return drawn


def picture() -> str:
    """The whole picture, as SVG."""
    known = places()
    high = max(
        y + LINE * (len(tables.metadata.tables[name].columns) + 1) for name, (_, y) in known.items()
    )
    wide = 2 * MARGIN + len(PLACES) * WIDTH + (len(PLACES) - 1) * GAP + GAP // 3
    high += MARGIN + 5
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}">',
        "<title>The tables of the LR database</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#3b6ea5"/></marker></defs>',
        f'<rect width="{wide}" height="{high}" fill="#fff"/>',
    ]
    for name, (x, y) in known.items():
        lines += box(tables.metadata.tables[name], x, y)
    return "\n".join([*lines, *links(known), "</svg>"]) + "\n"


def main(file: Path = FILE) -> None:
    """Draw it."""
    file.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

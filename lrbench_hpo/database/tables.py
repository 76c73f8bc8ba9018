"""The schema, in SQLAlchemy Core: one for SQLite and PostgreSQL.

Names start with ``lrbench_``, so that a database can be shared with Optuna. What queries look at
has columns of its own; the rest is JSON text. A run's curve lies apart, and is read only when
asked for. Every index serves a query of `queries`: an answer must not get slower with the rows
that it does not ask for.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# Integer primary keys count up by themselves only as INTEGER in SQLite.
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

schema = sa.Table(
    "lrbench_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("applied_at", sa.Text, nullable=False),  # UTC, ISO 8601
)

tasks = sa.Table(
    "lrbench_tasks",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False, unique=True),
    sa.Column("dataset_key", sa.Text, nullable=False),  # the canonical name
    sa.Column("model_key", sa.Text, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("num_classes", sa.BigInteger),
    sa.Column("num_train", sa.BigInteger),
    sa.Column("image_shape", sa.Text),  # JSON: [channels, height, width]
    sa.Column("num_parameters", sa.BigInteger),
    sa.Column("framework", sa.Text),
    sa.Column("optimizer", sa.Text),
    sa.Column("momentum", sa.Double),
    sa.Column("weight_decay", sa.Double),
    sa.Column("batch_size", sa.BigInteger),
    sa.Column("init", sa.Text),
    sa.Column("reference_lr", sa.Double),
    sa.Index("lrbench_tasks_by_name", "dataset_key", "model_key"),
)

origins = sa.Table(
    "lrbench_origins",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False, unique=True),
    sa.Column("who", sa.Text, nullable=False),  # user@host
    sa.Column("at", sa.Text, nullable=False),  # UTC, ISO 8601 of fixed width
    sa.Column("version", sa.Text, nullable=False),  # of lrbench_hpo
    sa.Column("file", sa.Text),  # that the rows were imported from
    sa.Column("checksum", sa.Text),  # of that file: SHA-256, hex
    sa.Column("before_id", sa.ForeignKey("lrbench_origins.id")),  # the origin in the file itself
    sa.Index("lrbench_origins_by_before", "before_id"),
)

runs = sa.Table(
    "lrbench_runs",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False, unique=True),
    sa.Column("task_id", sa.ForeignKey(tasks.c.id), nullable=False),
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),  # of the policy
    sa.Column("policy", sa.Text, nullable=False),  # JSON
    sa.Column("max_iterations", sa.BigInteger, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),  # UTC, ISO 8601 of fixed width
    sa.Column("top1", sa.Double),  # share; these five are copies of what is in metrics
    sa.Column("top5", sa.Double),  # share
    sa.Column("top1_std", sa.Double),  # share
    sa.Column("iterations_to_best", sa.Double),
    sa.Column("loss_difference", sa.Double),
    sa.Column("metrics", sa.Text, nullable=False),  # JSON
    sa.Column("cost", sa.Text, nullable=False),  # JSON
    sa.Column("environment", sa.Text, nullable=False),  # JSON
    sa.Column("notes", sa.Text, nullable=False),  # JSON
    sa.Column("score", sa.Double),  # with the default weights; null where it is not to be ranked
    sa.Column("origin_id", sa.ForeignKey(origins.c.id)),
)

_ranked = runs.c.score.is_not(None)
INDEXES = (
    sa.Index(
        "lrbench_runs_by_score",
        runs.c.task_id,
        runs.c.score,
        runs.c.created_at,
        runs.c.id,
        sqlite_where=_ranked,
        postgresql_where=_ranked,
    ),
    sa.Index("lrbench_runs_by_task_time", runs.c.task_id, runs.c.created_at, runs.c.id),
    sa.Index(
        "lrbench_runs_by_source_score",
        runs.c.task_id,
        runs.c.source,
        runs.c.score,
        runs.c.created_at,
        runs.c.id,
        sqlite_where=_ranked,
        postgresql_where=_ranked,
    ),
    sa.Index(
        "lrbench_runs_by_source_time", runs.c.task_id, runs.c.source, runs.c.created_at, runs.c.id
    ),
    sa.Index("lrbench_runs_by_time", runs.c.created_at, runs.c.id),
    sa.Index("lrbench_runs_by_policy", runs.c.fingerprint),
    sa.Index("lrbench_runs_by_source", runs.c.source, runs.c.status),
    sa.Index("lrbench_runs_by_origin", runs.c.origin_id),
)

curves = sa.Table(
    "lrbench_curves",
    metadata,
    sa.Column("run_id", sa.ForeignKey(runs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("points", sa.LargeBinary, nullable=False),  # of `curves.packed`
)

range_tests = sa.Table(
    "lrbench_range_tests",
    metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False, unique=True),
    sa.Column("dataset_key", sa.Text, nullable=False),  # the canonical name
    sa.Column("model_key", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),  # JSON: a task without a reference LR
    sa.Column("reference_lr", sa.Double, nullable=False),  # these seven are copies of the payload's
    sa.Column("spread", sa.Double, nullable=False),
    sa.Column("low", sa.Double, nullable=False),
    sa.Column("high", sa.Double, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("max_iterations", sa.BigInteger),
    sa.Column("iterations", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),  # JSON: the whole test
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),  # UTC, ISO 8601 of fixed width
    sa.Column("origin_id", sa.ForeignKey(origins.c.id)),
    sa.Index("lrbench_range_tests_by_task", "dataset_key", "model_key", "created_at", "id"),
    sa.Index("lrbench_range_tests_by_origin", "origin_id"),
)

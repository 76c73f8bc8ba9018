"""The schema, in SQLAlchemy Core: one for SQLite and PostgreSQL.

Names start with ``lrbench_``, so that a database can be shared with Optuna. What queries look at
has columns of its own; the rest is JSON text. A run's curve lies apart, and is read only when
asked for.
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
    sa.Index("lrbench_runs_by_task", "task_id", "status", "top1"),
    sa.Index("lrbench_runs_by_time", "created_at"),
    sa.Index("lrbench_runs_by_source", "source"),
)

curves = sa.Table(
    "lrbench_curves",
    metadata,
    sa.Column("run_id", sa.ForeignKey(runs.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("points", sa.Text, nullable=False),  # JSON: a list of values per field
)

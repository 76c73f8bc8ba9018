"""The LR database: one schema for SQLite and PostgreSQL, born with the published results."""

from lrbench_hpo.database.store import Database, DatabaseStats, connect, opened

__all__ = ["Database", "DatabaseStats", "connect", "opened"]

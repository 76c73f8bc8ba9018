"""The LR database: one schema for SQLite and PostgreSQL, which holds the published results."""

from lrbench_hpo.database.contents import DatabaseStats
from lrbench_hpo.database.origins import Origin
from lrbench_hpo.database.outcomes import Outcome
from lrbench_hpo.database.store import Database, connect, opened

__all__ = ["Database", "DatabaseStats", "Origin", "Outcome", "connect", "opened"]

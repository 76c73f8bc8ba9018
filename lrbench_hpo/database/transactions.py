"""One piece of work as one transaction, repeated after errors that may be temporary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from lrbench_hpo.database.engine import patience

_Result = TypeVar("_Result")

# SQLSTATEs after which the same work may succeed: lost and refused connections (class 08), a task
# that another process has just removed with its last run, serialization failure, deadlock, a
# server that ends or starts, no connection left.
_PASSING = ("08", "23503", "40001", "40P01", "57P01", "57P02", "57P03", "53300")
_LONGEST_PAUSE = 2.0  # seconds


def in_transaction(engine: sa.Engine, work: Callable[[sa.Connection], _Result]) -> _Result:
    """Do a piece of work as one transaction, wholly or not at all.

    On a server, work that failed for a temporary reason is repeated, with growing pauses, for as
    long as the URL's ``connect_timeout`` says, else 30 seconds. So it must be work that may be
    done twice: when a connection is lost at the commit, it is unknown whether it was done.

    Args:
        engine: of `open_engine`.
        work: what to do with the connection.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: what the last try ended with.
    """
    try:
        return _once(engine, work)
    except sa.exc.DBAPIError as error:
        if engine.dialect.name == "sqlite" or not passing(error):  # SQLite waits by itself
            raise
    import tenacity

    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passing),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(patience(engine.url)),
        reraise=True,
    )
    result: _Result = again(_once, engine, work)
    return result


def _once(engine: sa.Engine, work: Callable[[sa.Connection], _Result]) -> _Result:
    with engine.begin() as connection:
        return work(connection)


def passing(error: BaseException) -> bool:
    """Whether the same work may succeed later."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None)
    if code is None:  # libpq itself has failed: there is no connection (any more)
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    return error.connection_invalidated or code.startswith(_PASSING)

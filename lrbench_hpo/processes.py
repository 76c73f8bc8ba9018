"""Which process works on something, and whether it is gone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import uuid
from typing import Any

import psutil

# Seconds that a clock may be set while a process lives: one that seems to have begun later than
# noted by more than this is another one, with the number of the first.
_CLOCK = 3600.0


def this_process() -> dict[str, Any]:
    """A note of this process in JSON types, for `gone`; the machine is in it as a digest alone.

    >>> gone(this_process())
    False
    """
    process = psutil.Process()
    return {"host": _host(), "pid": process.pid, "started": process.create_time()}


def gone(noted: object) -> bool:
    """Whether a process has ended for certain; False where that cannot be told from here.

    Args:
        noted: what `this_process` gave, on any machine.

    >>> gone({**this_process(), "host": "another"})
    False
    """
    match noted:
        case {"host": host, "pid": int(pid), "started": float(started)} if host == _host():
            try:
                process = psutil.Process(pid)
                zombie = process.status() == psutil.STATUS_ZOMBIE
                return zombie or process.create_time() > started + _CLOCK
            except psutil.NoSuchProcess:
                return True
            except (psutil.Error, ValueError):  # somebody else's, so it is there; or no number
                return False
    return False


def _host() -> str:
    """The machine, or the container: numbers of processes mean nothing in another one."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    known = f"{socket.gethostname()} {uuid.getnode()} {space}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]

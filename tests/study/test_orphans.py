"""A process is dead only if it was on this machine and is not there any more."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from lrbench_hpo.study.orphans import is_dead, this_process

NOTE = "import json; from lrbench_hpo.study.orphans import *; print(json.dumps(this_process()))"


@pytest.fixture
def ended():
    told = subprocess.run([sys.executable, "-c", NOTE], capture_output=True, check=True)
    return json.loads(told.stdout)


def test_a_process_that_ended_is_gone(ended):
    assert is_dead(ended)


def test_one_that_lives_is_not_and_a_zombie_is():
    assert not is_dead(this_process())
    program = [sys.executable, "-c", f"{NOTE[:-1]}, flush=True); input()"]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    noted = json.loads(child.stdout.readline())
    assert not is_dead(noted)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(noted)  # a zombie
    child.communicate()
    assert is_dead(noted)


def test_nobody_is_gone_who_cannot_be_looked_at(ended):
    for unknown in ({**ended, "host": "another"}, {**ended, "pid": "7"}, {}, None, "dead"):
        assert not is_dead(unknown)


def test_the_number_of_a_process_may_be_another_ones_later():
    mine = this_process()
    assert is_dead({**mine, "started": mine["started"] - 86_400.0})
    assert not is_dead({**mine, "started": mine["started"] - 60.0})  # the clock was set


def test_the_note_tells_no_names():
    assert socket.gethostname() not in json.dumps(this_process())

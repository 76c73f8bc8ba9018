"""The reports of a population's policies, in the one report of its trial."""

from __future__ import annotations

import json
import math

import pytest

from lrbench_hpo.records.member_reports import as_text, host_of, member_id, members_in


def test_text_and_list_say_the_same():
    reports = {2: {"score": 0.5, "status": "running"}, 0: {"score": math.nan, "status": "diverged"}}
    listed = [{"member": place, **reports[place]} for place in (0, 2)]
    text = as_text(reports)
    for members in (text, listed, tuple(listed)):
        found = members_in({"members": members, "training_iteration": 4, "done": False})
        assert set(found) == {0, 2}
        assert found[2] == {**reports[2], "training_iteration": 4, "done": False}
        assert math.isnan(found[0]["score"])
    assert [each["member"] for each in json.loads(text)] == [0, 2]


@pytest.mark.parametrize(
    "members",
    [
        None,
        7,
        "no JSON",
        "7",
        "{}",
        {"0": {"score": 1}},
        [],
        [7],
        [{"score": 0.5}],
        [{"member": -1}],
        [{"member": True}],
        [{"member": "0"}],
        [{"member": 0.0}],
    ],
)
def test_what_is_no_list_of_numbered_reports_is_none(members):
    assert members_in({"members": members}) == {}


def test_a_trial_without_a_report_has_none():
    assert members_in(None) == members_in({}) == {}


def test_ids_of_policies_lead_back_to_their_trial():
    names = [member_id(trial, place) for trial in ("5ad1f_00003", "a") for place in range(12)]
    assert len(set(names)) == 24
    assert host_of(names[11]) == ("5ad1f_00003", 11)
    assert host_of("5ad1f_00003") == ("5ad1f_00003", None)

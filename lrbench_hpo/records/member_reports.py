"""The report of a trial that is a population: its policies' own reports, all in one.

Pure: reports are flat dicts of JSON types, whatever framework carries them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

POLICIES = "lr_policies"  # of a trial's config: a list of policies, as dicts
MEMBERS = "members"
MEMBER = "member"
_MARK = "#"  # in no trial id of Ray's


def member_id(trial_id: str, member: int) -> str:
    """The id of one policy of a population.

    >>> member_id("5ad1f_00003", 2), host_of(member_id("5ad1f_00003", 2)), host_of("5ad1f_00003")
    ('5ad1f_00003#2', ('5ad1f_00003', 2), ('5ad1f_00003', None))
    """
    return f"{trial_id}{_MARK}{member}"


def host_of(name: str) -> tuple[str, int | None]:
    """The trial of an id of `member_id`, and the policy's place in it; None for a trial's own."""
    trial_id, _, member = name.partition(_MARK)
    return trial_id, int(member) if member else None


def as_text(reports: Mapping[int, Mapping[str, Any]]) -> str:
    """Reports by their policy's place as the value of ``members``.

    Text, because Ray's loggers would take a list for an image or a histogram.

    >>> as_text({1: {"score": 0.5}})
    '[{"member": 1, "score": 0.5}]'
    """
    return json.dumps([{MEMBER: member, **reports[member]} for member in sorted(reports)])


def members_in(result: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
    """The reports of a population's policies, by their place; anything else counts as none.

    Each has, as the trial's own report does, how often the trial has reported and whether it has
    ended.

    Args:
        result: a trial's report, with ``members`` as a list or as JSON text of one.

    >>> members_in({"members": [{"member": 1, "score": 0.5}], "training_iteration": 3})
    {1: {'score': 0.5, 'training_iteration': 3}}
    >>> members_in({"score": 0.5})
    {}
    """
    if result is None:
        return {}
    given = result.get(MEMBERS)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    if not isinstance(given, (list, tuple)):
        return {}
    found = {}
    for report in given:
        place = report.get(MEMBER) if isinstance(report, Mapping) else None
        if isinstance(place, int) and not isinstance(place, bool) and place >= 0:
            found[place] = {
                **{name: value for name, value in report.items() if name != MEMBER},
                **ray_fields(result),
            }
    return found


def ray_fields(result: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that Ray adds to a trial's report, which hold for all of its policies."""
    return {name: result[name] for name in ("training_iteration", "done") if name in result}

"""Search spaces as values: chosen functions, clipping, budgets."""

import pytest

from lrbench_hpo import SearchSpace, load_space
from lrbench_hpo.errors import SearchSpaceError, UnknownNameError
from lrbench_hpo.policies import ALL_FUNCTIONS, DEFAULT_FUNCTIONS
from lrbench_hpo.policies.space_files import published_spaces


def test_the_default_is_the_papers_functions_and_all_are_those_of_the_table():
    space = load_space("cifar10-resnet32")
    assert tuple(space.restricted(None).functions) == DEFAULT_FUNCTIONS
    assert sorted(space.restricted("all").functions) == sorted(ALL_FUNCTIONS)
    assert list(space.restricted(["cos", "FIX", "cos"]).functions) == ["COS", "FIX"]


def test_an_unknown_function_gets_the_nearest_names():
    with pytest.raises(UnknownNameError, match="did you mean SINEXP"):
        load_space("default").restricted(["SINEXPP"])


def test_a_function_without_ranges_is_refused():
    space = load_space("default").restricted(["FIX"])
    with pytest.raises(SearchSpaceError, match="no ranges for COS"):
        space.restricted(["COS"])
    with pytest.raises(SearchSpaceError, match="at least one"):
        space.restricted([])


def test_the_published_spaces_are_those_of_stored_studies():
    # A study refuses a space of another fingerprint, and Optuna another order of the functions.
    fingerprints = {
        "cifar10-cnn3": "db0fe370454f5c7e",
        "cifar10-resnet32": "82fe4b2943b138c6",
        "default": "ec6c4c51b81f8fad",
        "mnist-lenet": "2414d03ee37ce4eb",
    }
    spaces = {name: load_space(name) for name in published_spaces()}
    assert {name: s.restricted(None).fingerprint for name, s in spaces.items()} == fingerprints
    order = [
        "POLY",
        "SIG",
        "TRI",
        "TRIEXP",
        "SIN",
        "SINEXP",
        "COS",
        "DTRI",
        "DSIN",
        "COS2",
        "UPCOS",
    ]
    assert [name for name in spaces["default"].functions if name in order] == order


def test_clipping_names_what_moved():
    space = load_space("default")
    point, moved = space.clip("COS", {"peak": 1.0, "floor": 1e-9, "half_cycles": 3.4})
    assert point == {"peak": 1.0, "floor": 5e-5, "half_cycles": 3}
    assert moved == ["floor", "half_cycles"]


def test_a_budget_cuts_whole_numbers_only():
    space = load_space("default").within(4)
    assert space.functions["NSTEP"]["drops"].high == 4
    assert space.functions["COS"]["half_cycles"].high == 4
    assert space.functions["COS"]["peak"] == load_space("default").functions["COS"]["peak"]
    assert load_space("cifar10-cnn3").within(2).functions["COS"]["half_cycles"].low == 2


def test_the_fingerprint_is_of_the_ranges_alone():
    space = load_space("default")
    data = space.to_dict()
    data["functions"]["FIX"]["peak"]["from"] = "elsewhere"
    assert SearchSpace.from_dict(data).fingerprint == space.fingerprint
    data["functions"]["FIX"]["peak"]["high"] = 11.0
    assert SearchSpace.from_dict(data).fingerprint != space.fingerprint

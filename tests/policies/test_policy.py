from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrbench_hpo.errors import LRBenchError, PolicyError, UnknownNameError
from lrbench_hpo.policies import FUNCTIONS, LRPolicy, compose

SINEXP = {"k0": 1e-4, "k1": 0.9, "gamma": 0.99994, "l": 2000}

LENGTHS = st.integers(1, 10**6) | st.floats(1, 1e6)
MILESTONES = st.lists(st.integers(1, 10**6), min_size=1, max_size=6, unique=True).map(sorted)
VALUES = {
    "k0": st.floats(1e-8, 1e3),
    "k1": st.floats(0, 1e3),
    "gamma": st.floats(0, 1, exclude_min=True),
    "p": st.floats(1e-3, 20),
}
TIMES = st.lists(st.integers(0, 10**9) | st.floats(0, 1e12), min_size=1, max_size=20)


@st.composite
def policies(draw: st.DrawFn, name: str) -> LRPolicy:
    row = FUNCTIONS[name]
    values = VALUES | {"l": MILESTONES if name == "NSTEP" else LENGTHS}
    optional = [key for key in row.optional if draw(st.booleans())]
    return LRPolicy(name, **{key: draw(values[key]) for key in [*row.parameters, *optional]})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_properties(name: str) -> None:
    @settings(max_examples=40, deadline=None, database=None)
    @given(policies(name), TIMES)
    def check(policy: LRPolicy, times: list[float]) -> None:
        with np.errstate(all="raise"):
            values = policy(times)
        low, high = policy.bounds
        assert np.isfinite(values).all()
        assert ((values >= low) & (values <= high)).all()
        assert [policy(t) for t in times] == values.tolist()
        assert policy(times[::-1]).tolist() == values.tolist()[::-1]
        again = LRPolicy.from_dict(json.loads(json.dumps(policy.to_dict(), allow_nan=False)))
        assert again == policy
        assert hash(again) == hash(policy)
        assert again.fingerprint == policy.fingerprint
        assert policy.evaluation_points(1000)[-1] == 1000

    check()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalar_and_vector_give_the_same_bits_in_any_layout(name: str) -> None:
    row = FUNCTIONS[name]
    values = {"k0": 0.013, "k1": 0.71, "gamma": 0.9973, "p": 0.75, "l": 37}
    values["l"] = [20, 99] if name == "NSTEP" else 37
    policy = LRPolicy(name, **{key: values[key] for key in row.takes})
    t = np.arange(300)
    expected = [policy(int(one)) for one in t]
    assert policy(t).tolist() == expected
    assert policy(t[::-1]).tolist() == expected[::-1]
    assert (
        policy(np.asfortranarray(t.reshape(20, 15))).tolist() == policy(t.reshape(20, 15)).tolist()
    )
    assert policy(t[7:8]).tolist() == expected[7:8]


def test_shapes_and_types() -> None:
    policy = LRPolicy("SINEXP", **SINEXP)
    assert type(policy(5)) is type(policy(np.int64(5))) is type(policy(np.array(5))) is float
    assert policy(np.zeros((2, 3), dtype=np.float32)).shape == (2, 3)
    assert policy([]).tolist() == []
    assert policy(range(3)).dtype == np.float64


def test_huge_times_underflow_to_the_bound() -> None:
    with np.errstate(all="raise"):
        assert LRPolicy("EXP", k0=0.1, gamma=0.5)(1e300) == 0.0
        assert LRPolicy("TRI2", k0=0.1, k1=0.2, l=1)(1e300 + 1) == 0.1


def test_two_live_nsteps_do_not_disturb_each_other() -> None:
    early = LRPolicy("NSTEP", k0=1.0, gamma=0.5, l=[2, 4])
    late = LRPolicy("NSTEP", k0=1.0, gamma=0.5, l=[3, 5])
    seen = [(early(t), late(t)) for t in (0, 2, 3, 4, 5, 2, 0)]
    assert seen == [(1, 1), (0.5, 1), (0.5, 0.5), (0.25, 0.5), (0.25, 0.25), (0.5, 1), (1, 1)]


BAD = [
    ("FIX", {}, "k0=None: FIX needs k0"),
    ("FIX", {"k0": 0}, "k0=0: expected a learning rate > 0"),
    ("FIX", {"k0": -0.1}, "k0=-0.1: expected"),
    ("FIX", {"k0": float("nan")}, "k0=nan: expected"),
    ("FIX", {"k0": float("inf")}, "k0=inf: expected"),
    ("FIX", {"k0": 1000.1}, "k0=1000.1: expected a learning rate > 0 and <= 1000"),
    ("FIX", {"k0": True}, "k0=True: expected"),
    ("FIX", {"k0": np.bool(True)}, "k0=True: expected"),
    ("FIX", {"k0": "0.1"}, "k0='0.1': expected"),
    ("FIX", {"k0": [0.1]}, "k0=[0.1]: expected"),
    ("FIX", {"k0": 10**5000}, "k0=a number of 16610 bits: expected"),
    ("FIX", {"k0": 0.1, "l": 10}, "l=10: FIX takes no l"),
    ("FIX", {"k0": 0.1, "k1": 0.2}, "k1=0.2: FIX takes no k1"),
    ("FIX", {"k0": 0.1, "parts": []}, "parts=[]: FIX takes no parts"),
    ("STEP", {"k0": 0.1, "gamma": 0.5}, "l=None: STEP needs l"),
    ("STEP", {"k0": 0.1, "gamma": 0.5, "l": [5]}, "l=[5]: expected a positive number"),
    ("EXP", {"k0": 0.1, "gamma": 0}, "gamma=0: expected a decay factor in (0, 1]"),
    ("EXP", {"k0": 0.1, "gamma": 1.0001}, "gamma=1.0001: expected"),
    ("EXP", {"k0": 0.1, "gamma": float("nan")}, "gamma=nan: expected"),
    ("INV", {"k0": 0.1, "gamma": 0.5, "p": 0}, "p=0: expected a power > 0"),
    ("INV", {"k0": 0.1, "gamma": 0.5, "p": float("inf")}, "p=inf: expected"),
    ("TRI", {"k0": 0.1, "k1": -1e-9, "l": 5}, "k1=-1e-09: expected a learning rate >= 0"),
    ("TRI", {"k0": 0.1, "k1": 0.2, "l": 0}, "l=0: expected a positive number of iterations"),
    ("TRI", {"k0": 0.1, "k1": 0.2, "l": -5}, "l=-5: expected"),
    ("TRI", {"k0": 0.1, "k1": 0.2, "l": 0.5}, "l=0.5: expected"),
    ("TRI", {"k0": 0.1, "k1": 0.2, "l": 1e13}, "l=10000000000000.0: expected"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": []}, "l=[]: expected a list"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": 5}, "l=5: expected a list"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": "57"}, "l='57': expected a list"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": [7, 5]}, "l=[7, 5]: expected strictly increasing"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": [5, 5]}, "l=[5, 5]: expected strictly increasing"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": [0, 5]}, "l[0]=0: expected"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": [1, True]}, "l[1]=True: expected"),
    ("NSTEP", {"k0": 0.1, "gamma": 0.5, "l": np.zeros((2, 2))}, "expected a list"),
    ("sinexp", {"k0": 0.1}, "unknown LR function 'sinexp': did you mean SINEXP"),
    ("X" * 5000, {"k0": 0.1}, "unknown LR function"),
    (["FIX"], {"k0": 0.1}, "function=['FIX']: expected"),
    (None, {"k0": 0.1}, "function=None: expected"),
    ("COMPOSED", {"k0": 0.1}, "k0=0.1: COMPOSED takes only parts"),
    ("COMPOSED", {}, "parts=None: expected"),
    ("COMPOSED", {"parts": []}, "parts=[]: expected"),
    ("COMPOSED", {"parts": "ab"}, "parts='ab': expected"),
    ("COMPOSED", {"parts": [5]}, "parts[0]=5: expected"),
    ("COMPOSED", {"parts": [(5, "FIX")]}, "parts[0]='FIX': expected an LRPolicy"),
]


@pytest.mark.parametrize(("function", "values", "message"), BAD)
def test_bad_values_get_one_clear_line(function: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(LRBenchError) as error:
        LRPolicy(function, **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "t",
    [-1, -1e-9, float("nan"), float("inf"), "3", True, None, 1j, [1, -2], [[1], [1, 2]], 10**400],
)
def test_bad_times_get_one_clear_line(t: Any) -> None:
    with pytest.raises(PolicyError, match=r"^t=.*: expected") as error:
        LRPolicy("FIX", k0=0.1)(t)
    assert "\n" not in str(error.value)


def test_numbers_are_kept_as_plain_python_numbers() -> None:
    policy = LRPolicy("NSTEP", k0=np.float32(0.5), gamma=1, l=np.array([3.0, 5.5]))
    assert policy == LRPolicy("NSTEP", k0=0.5, gamma=1.0, l=[3, 5.5])
    assert type(policy.k0) is type(policy.gamma) is float
    assert [type(step) for step in policy.l] == [int, float]  # type: ignore[union-attr]
    assert json.loads(json.dumps(policy.to_dict()))["l"] == [3, 5.5]
    assert str(LRPolicy("TRI", k0=1, k1=-0.0, l=5).k1) == "0.0"


def test_is_a_frozen_value() -> None:
    policy = LRPolicy("SINEXP", **SINEXP)
    with pytest.raises(FrozenInstanceError):
        policy.k0 = 1.0  # type: ignore[misc]
    assert len({policy, LRPolicy("SINEXP", **SINEXP)}) == 1
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 (made a line above)
    assert replace(policy, k1=1).k1 == 1.0
    with pytest.raises(PolicyError):
        replace(policy, gamma=2)


def test_dict_has_always_the_same_keys() -> None:
    plain, nstep = LRPolicy("FIX", k0=1), LRPolicy("NSTEP", k0=1, gamma=0.1, l=(3, 4))
    both = compose([(5, plain), (None, nstep)])
    keys = ["function", "k0", "k1", "gamma", "p", "l", "parts"]
    assert [list(policy.to_dict()) for policy in (plain, nstep, both)] == [keys] * 3
    assert both.to_dict()["parts"] == [[5, plain.to_dict()], [None, nstep.to_dict()]]
    assert LRPolicy.from_dict(json.loads(json.dumps(both.to_dict()))) == both


def nested(depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {"function": "FIX", "k0": 0.1}
    for _ in range(depth):
        result = {"function": "COMPOSED", "parts": [[5, result]]}
    return result


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "policy=3: expected a dict"),
        ([], "policy=[]: expected a dict"),
        ({"k0": 0.1}, "policy without 'function'"),
        ({"function": "FIX", "k0": 0.1, "K1": 3}, "policy key 'K1': expected one of function"),
        ({"function": "FIX", "k0": 0.1, 7: 3}, "policy key 7: expected"),
        ({"function": "FIX", "k0": {"a": 1}}, "k0={'a': 1}: expected"),
        ({"function": "COMPOSED", "parts": [[5]]}, "parts[0]=[5]: expected"),
        ({"function": "COMPOSED", "parts": {"a": 1}}, "parts={'a': 1}: expected"),
        ({"function": "COMPOSED", "parts": [[5, None]]}, "parts[0]=[5, None]: expected"),
        ({"function": "COMPOSED", "parts": [[0, nested(0)]]}, "parts[0] end=0: expected"),
        ({"function": "COMPOSED", "parts": [[5, nested(0)]] * 2}, "parts[1] end=5: expected more"),
        ({"function": "COMPOSED", "parts": [[None, nested(0)]] * 2}, "only the last part"),
        ({"function": "COMPOSED", "parts": [[5, {"function": "FIX"}]]}, "k0=None: FIX needs k0"),
        (nested(2), "parts[0] is COMPOSED"),
        (nested(100_000), "parts[0] is COMPOSED"),
    ],
)
def test_bad_dicts_get_one_clear_line(values: Any, message: str) -> None:
    with pytest.raises(PolicyError) as error:
        LRPolicy.from_dict(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fingerprint_knows_spellings_and_tells_policies_apart() -> None:
    up = LRPolicy("TRI", k0=1, k1=0.5, l=10)
    same = [LRPolicy("TRI", k0=0.5, k1=1.0, l=10.0), LRPolicy.from_dict(up.to_dict())]
    assert {policy.fingerprint for policy in same} == {up.fingerprint}
    assert len(up.fingerprint) == 16
    poly = {"k0": 0.1, "p": 1.2, "l": 100}
    assert LRPolicy("POLY", **poly).fingerprint == LRPolicy("POLY", k1=0, **poly).fingerprint
    others = [
        LRPolicy("SIN", k0=1, k1=0.5, l=10),
        LRPolicy("TRI", k0=1, k1=0.25, l=10),
        LRPolicy("TRI", k0=1, k1=0.5, l=10.5),
        compose([(5, up)]),
    ]
    assert len({policy.fingerprint for policy in [up, *others]}) == 5
    # What a database keeps must not change from one release to the next.
    assert LRPolicy("SINEXP", **SINEXP).fingerprint == "d29cf06e5e3349d9"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LRPolicy("FIX", k0=1), 1),
        (LRPolicy("STEP", k0=1, gamma=0.1, l=5), 3),
        (LRPolicy("NSTEP", k0=1, gamma=0.1, l=[5]), 3),
        (LRPolicy("NSTEP", k0=1, gamma=0.1, l=[5, 6, 7, 8, 9]), 7),
        (LRPolicy("INV", k0=1, gamma=0.1, p=0.75), 3),
        (LRPolicy("POLY", k0=1, p=1, l=5), 3),
        (LRPolicy("SINEXP", **SINEXP), 4),
        (compose([(5, LRPolicy("FIX", k0=1)), (None, LRPolicy("EXP", k0=1, gamma=0.5))]), 4),
    ],
)
def test_num_parameters(policy: LRPolicy, expected: int) -> None:
    assert policy.num_parameters == expected


def test_text() -> None:
    assert str(LRPolicy("SINEXP", **SINEXP)) == "SINEXP(k0=0.0001, k1=0.9, gamma=0.99994, l=2000)"
    nstep = LRPolicy("NSTEP", k0=0.1, gamma=0.1, l=[32_000, 48_000])
    assert str(nstep) == "NSTEP(k0=0.1, gamma=0.1, l=[32000, 48000])"
    fix = LRPolicy("FIX", k0=1 / 3)
    assert str(fix) == "FIX(k0=0.333333)"
    assert str(compose([(5, fix), (None, nstep)])) == f"COMPOSED({fix} until 5, {nstep})"
    for policy in (nstep, fix, compose([(5, fix)])):
        assert eval(repr(policy)) == policy  # noqa: S307 (a repr of ours)


def test_knows_no_optimizer_until_asked() -> None:
    code = (
        "import sys; from lrbench_hpo.policies import LRPolicy; LRPolicy('FIX', k0=1)(3); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_are_told_apart_from_bad_values() -> None:
    with pytest.raises(UnknownNameError):
        LRPolicy("NOPE", k0=1)

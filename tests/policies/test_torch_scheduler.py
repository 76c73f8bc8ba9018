from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from lrbench_hpo.errors import LRBenchError
from lrbench_hpo.policies import LRPolicy, compose, one_cycle, sgdr

POLICY = LRPolicy("SINEXP", k0=0.01, k1=0.9, gamma=0.99, l=20)


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2))


def sgd(lr: float = 0.1, **more: float) -> torch.optim.SGD:
    return torch.optim.SGD([parameter()], lr=lr, **more)


def lrs(scheduler: theirs.LRScheduler, steps: int) -> list[list[float]]:
    """LRs of all groups that the optimizer uses in the next ``steps`` updates."""
    seen = []
    for _ in range(steps):
        seen.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


# Our policy, and torch's scheduler for an optimizer with LR 0.1: the same LRs for 100 updates.
EQUALS: dict[str, tuple[LRPolicy, Callable[[Optimizer], theirs.LRScheduler]]] = {
    "CyclicLR triangular": (
        LRPolicy("TRI", k0=0.01, k1=0.5, l=9),
        lambda o: theirs.CyclicLR(o, 0.01, 0.5, step_size_up=9, cycle_momentum=False),
    ),
    "CyclicLR triangular2": (
        LRPolicy("TRI2", k0=0.01, k1=0.5, l=9),
        lambda o: theirs.CyclicLR(
            o, 0.01, 0.5, step_size_up=9, mode="triangular2", cycle_momentum=False
        ),
    ),
    "CyclicLR exp_range": (
        LRPolicy("TRIEXP", k0=0.01, k1=0.5, gamma=0.98, l=9),
        lambda o: theirs.CyclicLR(
            o, 0.01, 0.5, step_size_up=9, mode="exp_range", gamma=0.98, cycle_momentum=False
        ),
    ),
    "ConstantLR": (LRPolicy("FIX", k0=0.1), lambda o: theirs.ConstantLR(o, factor=1.0)),
    "StepLR": (
        LRPolicy("STEP", k0=0.1, gamma=0.3, l=13),
        lambda o: theirs.StepLR(o, 13, gamma=0.3),
    ),
    "MultiStepLR": (
        LRPolicy("NSTEP", k0=0.1, gamma=0.3, l=[10, 11, 50]),
        lambda o: theirs.MultiStepLR(o, [10, 11, 50], gamma=0.3),
    ),
    "ExponentialLR": (
        LRPolicy("EXP", k0=0.1, gamma=0.95),
        lambda o: theirs.ExponentialLR(o, gamma=0.95),
    ),
    "PolynomialLR": (
        LRPolicy("POLY", k0=0.1, p=1.7, l=80),
        lambda o: theirs.PolynomialLR(o, total_iters=80, power=1.7),
    ),
    "CosineAnnealingLR": (
        LRPolicy("COS", k0=0.1, k1=0.004, l=30),
        lambda o: theirs.CosineAnnealingLR(o, T_max=30, eta_min=0.004),
    ),
    "CosineAnnealingWarmRestarts": (
        LRPolicy("COSRSW", k0=0.1, k1=0.004, l=30),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, T_0=30, eta_min=0.004),
    ),
    "CosineAnnealingWarmRestarts T_mult": (
        sgdr(0.1, 0.004, 10, multiplier=2, cycles=4),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2, eta_min=0.004),
    ),
    "OneCycleLR cos": (
        one_cycle(0.5, 101),
        lambda o: theirs.OneCycleLR(o, 0.5, total_steps=101, cycle_momentum=False),
    ),
    "OneCycleLR linear": (
        one_cycle(0.5, 101, pct_start=0.47, div_factor=10, final_div_factor=50, anneal="linear"),
        lambda o: theirs.OneCycleLR(
            o,
            0.5,
            total_steps=101,
            pct_start=0.47,
            div_factor=10,
            final_div_factor=50,
            anneal_strategy="linear",
            cycle_momentum=False,
        ),
    ),
    "LinearLR, then the policy": (
        compose([(20, LRPolicy("TRI", k0=0.02, k1=0.1, l=20)), (None, LRPolicy("FIX", k0=0.1))]),
        lambda o: theirs.LinearLR(o, start_factor=0.2, total_iters=20),
    ),
}


@pytest.mark.parametrize("name", EQUALS)
def test_equals_torchs_own_scheduler(name: str) -> None:
    policy, make = EQUALS[name]
    optimizer = sgd()
    expected = [lr for (lr,) in lrs(make(optimizer), 100)]
    np.testing.assert_allclose(policy(np.arange(100)), expected, rtol=1e-9, atol=1e-12)
    ours = [lr for (lr,) in lrs(policy.torch_scheduler(sgd(policy(0))), 100)]
    assert ours == policy(np.arange(100)).tolist()


def test_is_a_torch_scheduler() -> None:
    scheduler = POLICY.torch_scheduler(sgd(POLICY(0)))
    assert isinstance(scheduler, theirs.LRScheduler)
    assert scheduler.get_last_lr() == [POLICY(0)]
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [POLICY(1)]


def grouped(given: Sequence[float | None], default: float) -> torch.optim.SGD:
    """One parameter group an LR; None: the group has the optimizer's default LR."""
    groups = [{"params": [parameter()]} | ({} if lr is None else {"lr": lr}) for lr in given]
    return torch.optim.SGD(groups, lr=default)


@pytest.mark.parametrize(
    ("given", "default", "ratios"),
    [
        ((None, 2 * POLICY(0)), POLICY(0), (1, 2)),  # the usual twice the LR for biases
        ((0.02, 0.1, 0.0), 0.1, (0.2, 1, 0)),
        ((None, 0.5, 0.05), 0.1, (1, 5, 0.5)),
        ((0.5, 0.2), 0.1, (1, 0.4)),  # no group has the default: the largest follows
        ((0.0, 0.2), 0.0, (0, 1)),  # nor can 0 be the reference
        ((0.0, None), 0.0, (1, 1)),
        ((0.0, 0.0), 0.1, (1, 1)),
    ],
)
def test_groups_keep_the_ratio_of_their_lr_to_the_default(
    given: Sequence[float | None], default: float, ratios: Sequence[float]
) -> None:
    for t, found in enumerate(lrs(POLICY.torch_scheduler(grouped(given, default)), 50)):
        assert found == pytest.approx([ratio * POLICY(t) for ratio in ratios])
        assert found[ratios.index(1)] == POLICY(t)


def test_an_optimizer_without_a_default_lr_follows_its_largest() -> None:
    optimizer = grouped((0.1, 0.2), 0.1)
    del optimizer.defaults["lr"]
    assert POLICY.torch_scheduler(optimizer).get_last_lr() == [0.5 * POLICY(0), POLICY(0)]


@pytest.mark.parametrize("first", ["scheduler", "optimizer"])
@pytest.mark.parametrize("default", [0.1, 3.0])
def test_ratios_survive_a_checkpoint_whatever_the_new_optimizers_lr(
    first: str, default: float
) -> None:
    scheduler = POLICY.torch_scheduler(grouped((None, 0.2), 0.1))
    lrs(scheduler, 7)
    saved = {"scheduler": scheduler.state_dict(), "optimizer": scheduler.optimizer.state_dict()}
    optimizer = grouped((None, 0.2), default)
    again = POLICY.torch_scheduler(optimizer)
    loads: dict[str, Any] = {"scheduler": again, "optimizer": optimizer}
    loads.pop(first).load_state_dict(saved[first])
    for name, rest in loads.items():
        rest.load_state_dict(saved[name])
    for t, found in enumerate(lrs(again, 20), start=7):
        assert found == [POLICY(t), 2 * POLICY(t)]


def test_a_scheduler_made_after_the_optimizer_was_loaded_keeps_its_ratios() -> None:
    scheduler = POLICY.torch_scheduler(grouped((None, 0.2), 0.1))
    lrs(scheduler, 7)
    optimizer = grouped((None, 0.2), 0.1)
    optimizer.load_state_dict(scheduler.optimizer.state_dict())
    again = POLICY.torch_scheduler(optimizer, last_epoch=6)
    assert again.get_last_lr() == [POLICY(7), 2 * POLICY(7)]


def test_a_policy_that_starts_at_zero() -> None:
    policy = LRPolicy("TRI", k0=0.5, k1=0, l=10)
    seen = lrs(policy.torch_scheduler(sgd(policy(0))), 30)
    assert [lr for (lr,) in seen] == policy(range(30)).tolist()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_works_with_any_optimizer_and_leaves_the_rest_alone(kind: Any) -> None:
    optimizer = kind([parameter()], lr=POLICY(0), weight_decay=0.1)
    before = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("lr", "params")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = lrs(POLICY.torch_scheduler(optimizer), 40)
    assert [lr for (lr,) in seen] == POLICY(range(40)).tolist()
    after = {k: v for k, v in optimizer.param_groups[0].items() if k in before}
    assert after.pop("initial_lr", POLICY(0)) == POLICY(0)
    assert after == {k: v for k, v in before.items() if k != "initial_lr"}


def test_tensor_lrs_are_updated_in_place() -> None:
    optimizer = torch.optim.Adam([parameter()], lr=torch.tensor(0.1), capturable=False)
    tensor = optimizer.param_groups[0]["lr"]
    scheduler = POLICY.torch_scheduler(optimizer)
    lrs(scheduler, 5)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert float(tensor) == pytest.approx(POLICY(5))
    again = POLICY.torch_scheduler(torch.optim.Adam([parameter()], lr=torch.tensor(0.1)))
    again.load_state_dict(scheduler.state_dict())
    assert float(again.optimizer.param_groups[0]["lr"]) == pytest.approx(POLICY(5))


@pytest.mark.parametrize("policy", [POLICY, sgdr(0.1, 0.0, 7, multiplier=2, cycles=3)])
@pytest.mark.parametrize("stop", [0, 1, 19, 33])
def test_resumes_from_a_checkpoint_in_either_order(policy: LRPolicy, stop: int) -> None:
    optimizer = torch.optim.SGD([{"params": [parameter()], "lr": 0.1}], lr=0.1, momentum=0.9)
    scheduler = policy.torch_scheduler(optimizer)
    lrs(scheduler, stop)
    file = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = lrs(scheduler, 20)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for first in ("scheduler", "optimizer"):
        optimizer = torch.optim.SGD([parameter()], lr=3.0, momentum=0.9)
        scheduler = policy.torch_scheduler(optimizer)
        loads = {"scheduler": scheduler, "optimizer": optimizer}
        loads.pop(first).load_state_dict(saved[first])  # type: ignore[attr-defined]
        for name, rest in loads.items():
            rest.load_state_dict(saved[name])  # type: ignore[attr-defined]
        assert scheduler.get_last_lr() == expected[0]
        assert lrs(scheduler, 20) == expected


def test_the_optimizer_follows_a_loaded_state_at_once() -> None:
    scheduler = POLICY.torch_scheduler(sgd())
    lrs(scheduler, 12)
    again = POLICY.torch_scheduler(sgd(3.0))
    again.load_state_dict(scheduler.state_dict())
    assert [lr for (lr,) in lrs(again, 5)] == POLICY(range(12, 17)).tolist()


@pytest.mark.parametrize("t", [0, 1, 57])
def test_starts_at_any_iteration_with_a_fresh_optimizer(t: int) -> None:
    scheduler = POLICY.torch_scheduler(sgd(0.3), last_epoch=t)
    assert scheduler.get_last_lr() == [POLICY(t + 1)]
    assert [lr for (lr,) in lrs(scheduler, 5)] == POLICY(range(t + 1, t + 6)).tolist()


def test_step_to_an_iteration() -> None:
    scheduler = POLICY.torch_scheduler(sgd())
    scheduler.optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the argument
        scheduler.step(33)
    assert scheduler.get_last_lr() == [POLICY(33)]


def test_refuses_a_foreign_state() -> None:
    scheduler = POLICY.torch_scheduler(sgd())
    state = scheduler.state_dict()
    other = LRPolicy("FIX", k0=0.1).torch_scheduler(sgd()).state_dict()
    two = state | {"base_lrs": [0.1, 0.2]}
    for bad, message in [
        (other, "scheduler state of FIX(k0=0.1): expected the state of SINEXP"),
        (two, "base_lrs=[0.1, 0.2]: expected one for each"),
        (theirs.StepLR(sgd(), 5).state_dict(), "scheduler state without policy"),
        (state | {"policy": {"function": "NOPE"}}, "unknown LR function"),
    ]:
        with pytest.raises(LRBenchError, match=r"expected|unknown") as error:
            scheduler.load_state_dict(bad)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert scheduler.get_last_lr() == [POLICY(0)]


def test_says_what_to_install_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from lrbench_hpo.errors import MissingExtraError\n"
        "from lrbench_hpo.policies import LRPolicy\n"
        "try: LRPolicy('FIX', k0=1).torch_scheduler(None)\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "torch is not installed: pip install 'lrbench-hpo[torch]'\n"

"""An LR policy as a torch scheduler; imported only where torch is there."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrbench_hpo.errors import PolicyError
from lrbench_hpo.policies.parameters import short
from lrbench_hpo.policies.policy import LRPolicy


class PolicyScheduler(LRScheduler):
    """Sets ``policy(t) * ratio`` in every parameter group; ``step()`` it once an iteration.

    ``ratio`` is a group's initial LR over the reference: the optimizer's default LR (its ``lr``
    argument) if that is above 0 and at least one group starts with it, else the largest initial LR
    of the groups. With one group, or equal LRs (0 included), every ratio is 1. The LR is always
    computed from ``t``, never from the LR before, so it does not drift.

    Args:
        optimizer: any torch optimizer.
        policy: the policy to follow.
        last_epoch: the last iteration that was done; -1 at the start of training.

    >>> import torch
    >>> policy = LRPolicy("STEP", k0=0.1, gamma=0.5, l=2)
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=policy(0))
    >>> scheduler = policy.torch_scheduler(optimizer)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.05]

    Biases at twice the policy's LR:

    >>> weight, bias = (torch.zeros(1, requires_grad=True) for _ in range(2))
    >>> groups = [{"params": weight}, {"params": bias, "lr": 2 * policy(0)}]
    >>> policy.torch_scheduler(torch.optim.SGD(groups, lr=policy(0))).get_last_lr()
    [0.1, 0.2]
    """

    def __init__(self, optimizer: Optimizer, policy: LRPolicy, last_epoch: int = -1) -> None:
        self.policy = policy
        # A fresh optimizer may go on at any iteration: only the ratios of its LRs matter.
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._reference_lr = _reference_lr(optimizer)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """LR of every parameter group at the current iteration."""
        lr = self.policy(self.last_epoch)
        reference = self._reference_lr
        if reference == 0:
            return [lr] * len(self.base_lrs)
        return [lr * (float(base_lr) / reference) for base_lr in self.base_lrs]

    # What torch calls for step(epoch): the same, as the LR never depends on the one before.
    _get_closed_form_lr = get_lr

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types, so that ``torch.load(weights_only=True)`` reads it."""
        return {
            "policy": self.policy.to_dict(),
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "reference_lr": self._reference_lr,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; the LRs of the optimizer's groups follow at once.

        Raises:
            PolicyError: the state is another policy's, or has another number of parameter groups.
        """
        missing = set(self.state_dict()) - set(state_dict)
        if missing:
            raise PolicyError(
                f"scheduler state without {', '.join(sorted(missing))}: "
                "expected what PolicyScheduler.state_dict() made"
            )
        saved = LRPolicy.from_dict(state_dict["policy"])
        if saved.fingerprint != self.policy.fingerprint:
            raise PolicyError(
                f"scheduler state of {saved}: expected the state of {self.policy}; "
                "make the scheduler from the policy that was saved"
            )
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise PolicyError(
                f"base_lrs={short(state_dict['base_lrs'])}: expected one for each of the "
                f"optimizer's {len(self.base_lrs)} parameter groups"
            )
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["step_count"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._reference_lr = state_dict["reference_lr"]
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = self.get_lr()


def _reference_lr(optimizer: Optimizer) -> float:
    """The initial LR of a group that follows the policy itself; 0 if all of them are 0."""
    initial = [float(group["initial_lr"]) for group in optimizer.param_groups]
    # Not every optimizer of others has a default LR.
    default = float(optimizer.defaults.get("lr", 0.0))
    return default if default > 0 and default in initial else max(initial)

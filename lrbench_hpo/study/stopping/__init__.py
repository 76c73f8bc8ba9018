"""When a training is not worth its end: early stopping that knows LR policies.

A network trained at a high LR looks worse than it will be, so trials are compared only where their
policies are comparable: at LR minima, and at the same shares of the budget. A logistic regression
on measured learning curves tells a trial's chance to win, and a trial goes on as long as that is
worth the iterations it still needs.
"""

from lrbench_hpo.study.stopping.chance import learn
from lrbench_hpo.study.stopping.observed import RUNGS, Observed, comparable, noise_of_best, rung
from lrbench_hpo.study.stopping.rule import StoppingRule

__all__ = ["RUNGS", "Observed", "StoppingRule", "comparable", "learn", "noise_of_best", "rung"]

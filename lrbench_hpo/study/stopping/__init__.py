"""Early stopping that knows LR policies: when a trial's iterations are better spent on another one.

A network trained at a high LR looks worse than it will be, so trials are compared only where their
policies are comparable: at LR minima, and at the same shares of the budget. A logistic regression
on measured learning curves predicts a trial's probability to win. A trial goes on as long as that
probability justifies the iterations it still needs.
"""

from lrbench_hpo.study.stopping.observed import Observed, comparable, noise_of_best, rung
from lrbench_hpo.study.stopping.rule import StoppingRule

__all__ = ["Observed", "StoppingRule", "comparable", "noise_of_best", "rung"]

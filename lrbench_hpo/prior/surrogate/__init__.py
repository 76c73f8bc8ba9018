"""A surrogate of LR policies: what similar tasks' runs and a study's own say of every policy."""

from lrbench_hpo.prior.surrogate.candidates import Candidate
from lrbench_hpo.prior.surrogate.experts import Experts
from lrbench_hpo.prior.surrogate.search import Observations, Suggestion, Surrogate
from lrbench_hpo.prior.surrogate.source import Source, Surface

__all__ = ["Candidate", "Experts", "Observations", "Source", "Suggestion", "Surface", "Surrogate"]

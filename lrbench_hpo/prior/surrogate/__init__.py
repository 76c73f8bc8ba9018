"""The surrogate of LR policies: predictions from source tasks and from a study's own results."""

from lrbench_hpo.prior.surrogate.candidates import Candidate
from lrbench_hpo.prior.surrogate.experts import Experts
from lrbench_hpo.prior.surrogate.search import Observations, Suggestion, Surrogate
from lrbench_hpo.prior.surrogate.source import Source, Surface

__all__ = ["Candidate", "Experts", "Observations", "Source", "Suggestion", "Surface", "Surrogate"]

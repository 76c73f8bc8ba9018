"""Where a policy lies for the surrogate: its LR curve, with what matters most weighted up."""

from __future__ import annotations

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array

# Beside the curve itself: its area (how far the weights can move), its peak (what diverges) and
# its end (how far the noise of the last batches is averaged out).
_AREA, _PEAK, _END = 1.0, 1.0, 1.0


def embedded(features: Array) -> Array:
    """Points whose Euclidean distance says how differently two policies train.

    Args:
        features: decades of LR over equal parts of the budget, one policy a row.

    Returns:
        One row a policy. Multiplying all LRs by ten moves it by the same distance everywhere.
    """
    blocks = features / np.sqrt(features.shape[1])
    area = np.log10(np.mean(10**features, axis=1))
    extra = (_AREA * area, _PEAK * features.max(axis=1), _END * features[:, -1])
    return np.column_stack([blocks, *extra])


def direction(blocks: int) -> Array:
    """Where all policies move when all LRs are multiplied by ten.

    Args:
        blocks: parts of the budget that features are made of.

    >>> features = np.zeros((1, 16))
    >>> moved = embedded(features + 1) - embedded(features)
    >>> bool(np.allclose(moved[0], direction(16)))
    True
    """
    return np.array([*[1 / np.sqrt(blocks)] * blocks, _AREA, _PEAK, _END])

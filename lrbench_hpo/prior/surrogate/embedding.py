"""The surrogate's space: a policy as its LR curve, with area, peak and end weighted up."""

from __future__ import annotations

import numpy as np

from lrbench_hpo.prior.surrogate.process import Array

# Weights of the three coordinates beside the curve: its area (how far the weights can move), its
# peak (what diverges) and its end (how far the noise of the last batches is averaged out).
_AREA, _PEAK, _END = 1.0, 1.0, 1.0


def embedded(features: Array) -> Array:
    """Points whose Euclidean distance measures how differently two policies train.

    Args:
        features: decades of LR over equal parts of the budget, one policy a row.

    Returns:
        One row a policy.
    """
    # With the decades f_1 ... f_B of the mean LR over B equal parts of the budget,
    #
    #     x = (f_1 / sqrt(B), ..., f_B / sqrt(B), log10(mean_b 10^f_b), max_b f_b, f_B).
    #
    # By the sqrt(B), the first part of the distance is the root mean square of the differences in
    # decades, whatever B is. All coordinates are in decades, so multiplying all LRs of a policy by
    # 10^s adds s * `direction(B)`, wherever the policy lies: a change of the LR's unit is a
    # translation, which `source.Surface.predict` makes use of. Functions and their parameters do
    # not appear: equal curves are one point, and what one function shows holds for the others.
    blocks = features / np.sqrt(features.shape[1])
    area = np.log10(np.mean(10**features, axis=1))
    extra = (_AREA * area, _PEAK * features.max(axis=1), _END * features[:, -1])
    return np.column_stack([blocks, *extra])


def direction(blocks: int) -> Array:
    """The vector that every policy moves by when all of its LRs are multiplied by ten.

    Args:
        blocks: parts of the budget that features are made of.

    >>> features = np.zeros((1, 16))
    >>> moved = embedded(features + 1) - embedded(features)
    >>> bool(np.allclose(moved[0], direction(16)))
    True
    """
    return np.array([*[1 / np.sqrt(blocks)] * blocks, _AREA, _PEAK, _END])

"""Metrics of one evaluation of a model, computed from its softmax output.

Definitions follow Wu et al. 2019 (arXiv 1908.06477), where K is the set of correctly classified
samples and P_y a sample's probability of its own class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrbench_hpo.errors import RecordError

_Floats = NDArray[np.floating[Any]]
_SUM_TOLERANCE = 0.02  # the error of half-precision softmax over many classes


def prediction_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Top-1, Top-5 and the model's confidence in its correct predictions.

    ``AC = mean of P_y over K``, ``CD = std of P_y over K``,
    ``CDAC = std over classes of the class means of P_y over K``; both stds are population stds.

    A sample's predicted class is its most probable one, the first of equals. A sample with a
    probability that is not finite counts as wrong, so a diverged model has a Top-1 of 0.

    Args:
        probabilities: softmax output, shape (samples, classes).
        labels: class numbers from 0, shape (samples,).

    Returns:
        ``top1``, ``top5``, ``ac``, ``cd``, ``cdac`` in [0, 1], and ``classes_left_out``, the number
        of classes without a correct sample, which CDAC leaves out. With no correct sample at all
        ``ac``, ``cd`` and ``cdac`` are None. With fewer than five classes ``top5`` is 1.

    Raises:
        RecordError: for arrays that do not fit together, no samples, a label that is not a class,
            or rows that are not probabilities.

    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> measured = prediction_metrics(p, [0, 1, 1])
    >>> round(measured["top1"], 4), round(measured["ac"], 4), round(measured["cd"], 4)
    (0.6667, 0.85, 0.05)
    """
    p, y = _checked(np.asarray(probabilities), np.asarray(labels))
    samples, classes = p.shape
    own = p[np.arange(samples), y]
    earlier = np.arange(classes) < y[:, None]
    # The rank of the sample's own class: how many are more probable, or equal and earlier, which
    # is the order of argmax. The class is in the top k where the rank is below k.
    before = np.sum((p > own[:, None]) | ((p == own[:, None]) & earlier), axis=1)
    valid = np.isfinite(p).all(axis=1)
    correct = valid & (before == 0)
    result: dict[str, float | None] = {
        "top1": float(np.mean(correct)),
        "top5": float(np.mean(valid & (before < 5))),
    }
    return result | _confidence(own[correct].astype(np.float64), y[correct], classes)


def _confidence(own: _Floats, y: NDArray[np.intp], classes: int) -> dict[str, float | None]:
    counts = np.bincount(y, minlength=classes)
    seen = counts > 0
    left_out = int(classes - np.count_nonzero(seen))
    if own.size == 0:
        return {"ac": None, "cd": None, "cdac": None, "classes_left_out": left_out}
    class_means = np.bincount(y, weights=own, minlength=classes)[seen] / counts[seen]
    return {
        "ac": float(own.mean()),
        "cd": float(own.std()),
        "cdac": float(class_means.std()),
        "classes_left_out": left_out,
    }


def _checked(p: NDArray[Any], y: NDArray[Any]) -> tuple[_Floats, NDArray[np.intp]]:
    if p.ndim != 2 or y.ndim != 1 or len(p) != len(y):
        shapes = f"probabilities {p.shape}, labels {y.shape}"
        raise RecordError(f"{shapes}: expected (samples, classes) and (samples,)")
    if p.size == 0:
        raise RecordError(f"probabilities {p.shape}: expected at least one sample and one class")
    if p.dtype.kind not in "fiu" or y.dtype.kind not in "iu":
        types = f"probabilities {p.dtype}, labels {y.dtype}"
        raise RecordError(f"{types}: expected numbers and whole class numbers")
    if y.min() < 0 or y.max() >= p.shape[1]:
        bad = y.max() if y.max() >= p.shape[1] else y.min()
        raise RecordError(f"label {bad}: expected a class from 0 to {p.shape[1] - 1}")
    numbers = p.astype(np.float64) if p.dtype.kind != "f" or p.itemsize < 4 else p
    finite = numbers[np.isfinite(numbers).all(axis=1)]
    if finite.size:
        off = float(np.abs(finite.sum(axis=1, dtype=np.float64) - 1).max())
        if finite.min() < 0 or off > _SUM_TOLERANCE:
            raise RecordError(
                "probabilities: expected rows >= 0 that sum to 1: apply softmax first"
            )
    return numbers, y.astype(np.intp)


def loss_difference(train_loss: float | None, eval_loss: float | None) -> float | None:
    """LD: ``eval_loss - train_loss``, signed; above 0 the model fits its training data better.

    Args:
        train_loss: mean loss on training data; None when not measured.
        eval_loss: mean loss on the evaluation split; None when not measured.

    Returns:
        The difference; None if either was not measured, NaN or infinite if the run diverged.

    >>> loss_difference(0.25, 0.75)
    0.5
    """
    return None if train_loss is None or eval_loss is None else float(eval_loss - train_loss)

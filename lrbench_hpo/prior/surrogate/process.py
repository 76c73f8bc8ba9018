"""Gaussian process regression with the noise of each point given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_JITTER = 1e-8  # least variance: keeps equal points with little noise invertible


def kernel(left: Array, right: Array, width: float) -> Array:
    """``exp(-|x - y|^2 / (2 width^2))`` for all pairs of rows.

    Args:
        left: one point a row.
        right: one point a row, as long as those.
        width: distance over which a function changes, in the points' unit.

    Returns:
        One row a left point, one column a right one.

    >>> kernel(np.zeros((1, 2)), np.array([[0.0, 0.0], [3.0, 4.0]]), 5.0).round(3).tolist()
    [[1.0, 0.607]]
    """
    squares = squared_distances(left, right)
    squares *= -0.5 / width**2
    near: Array = np.exp(squares, out=squares)
    return near


def squared_distances(left: Array, right: Array) -> Array:
    """Squared Euclidean distances of all pairs of rows, never below 0.

    >>> squared_distances(np.zeros((1, 2)), np.array([[3.0, 4.0]])).tolist()
    [[25.0]]
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y: one matrix product. Rounding may leave less than 0.
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    squares -= 2 * left @ right.T
    found: Array = np.maximum(squares, 0.0, out=squares)
    return found


@dataclass(frozen=True)
class Process:
    """A fitted process with mean 0 and covariance ``amplitude^2 kernel + linear linear^T``.

    Attributes:
        points: the points with known values, one a row.
        linear: known functions of the points whose coefficients are learnt too, one a column.
        weights: ``(K + noise)^-1 values``.
        inverse: ``(K + noise)^-1``.
        width: of the kernel.
        amplitude: standard deviation far from all points.
        evidence: log marginal likelihood of the values, without its constant.
    """

    points: Array
    linear: Array
    weights: Array
    inverse: Array
    width: float
    amplitude: float
    evidence: float

    @classmethod
    def fitted(
        cls,
        points: Array,
        values: Array,
        noise: Array,
        *,
        width: float,
        amplitude: float,
        linear: Array | None = None,
    ) -> Process:
        """The process given values with these standard deviations of their noise.

        >>> known = Process.fitted(
        ...     np.zeros((1, 2)), np.ones(1), np.array([0.1]), width=1.0, amplitude=1.0
        ... )
        >>> mean, spread = known.predict(np.array([[0.0, 0.0], [9.0, 9.0]]))
        >>> mean.round(2).tolist(), spread.round(2).tolist()
        ([0.99, 0.0], [0.1, 1.0])
        """
        # Rasmussen & Williams 2006, equations 2.25, 2.26 and 2.30, with mean 0 and n points:
        #
        #     K = a^2 k(X, X) + H H^T + diag(noise^2),    alpha = K^-1 y,
        #     mean(x) = k*.alpha,    var(x) = a^2 + |h(x)|^2 - k*^T K^-1 k*,
        #     log p(y) = -1/2 (y.alpha + log det K) - n/2 log(2 pi).
        #
        # H H^T is the linear model h(x).c with c ~ N(0, I), c integrated out. The constant of the
        # evidence is left out: only amplitudes for the same values are compared. The inverse itself
        # is kept, not a Cholesky factor: a study reads at most 72 results, and predictions for
        # hundreds of candidates are then plain matrix products.
        linear = np.zeros((len(points), 0)) if linear is None else linear
        covariance = amplitude**2 * kernel(points, points, width) + linear @ linear.T
        covariance[np.diag_indices_from(covariance)] += noise**2 + _JITTER
        inverse = np.asarray(np.linalg.inv(covariance), np.float64)
        weights = np.asarray(inverse @ values, np.float64)
        _, log_determinant = np.linalg.slogdet(covariance)
        evidence = float(-0.5 * (values @ weights + log_determinant))
        return cls(points, linear, weights, inverse, width, amplitude, evidence)

    def mean(self, points: Array, linear: Array | None = None) -> Array:
        """Mean of the function at new points, one a row: `predict` without the deviation."""
        near = self._near(points, linear)
        expected: Array = near @ self.weights
        return expected

    def predict(self, points: Array, linear: Array | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of the function at new points, one a row."""
        near = self._near(points, linear)
        alone = np.full(len(points), self.amplitude**2)
        if linear is not None:
            alone += (linear**2).sum(axis=1)
        variance = alone - ((near @ self.inverse) * near).sum(axis=1)
        return near @ self.weights, np.sqrt(np.maximum(variance, _JITTER))

    def _near(self, points: Array, linear: Array | None) -> Array:
        """Covariances of new points with the known ones, one row a new point."""
        near = self.amplitude**2 * kernel(points, self.points, self.width)
        if linear is not None:
            near += linear @ self.linear.T
        return near

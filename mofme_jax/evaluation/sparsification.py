"""Does an error map find the worst places? Sparsification (Ilg et al. 2018, arXiv:1802.07095).

Axis glossary: `n` blocks of an image. The blocks with the largest expected error are dropped first; the better the map,
the faster the mean error of the rest falls. Dropping by the true error, the oracle, is the best that can be done.
"""

import numpy as np


def sparsification_curve(expected: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Mean error of the blocks that are left.

    Args:
      expected: (n,) by which they are dropped, the largest first. Among equals every order is as likely, and the mean
        over those orders is taken. error: (n,) true errors.

    Returns:
      (n,) float64: the k-th with the share k / n dropped. It is flat where `expected` is the same everywhere.
    """
    values, group, sizes = np.unique(-np.asarray(expected), return_inverse=True, return_counts=True)
    means = np.bincount(group, np.asarray(error, np.float64), len(values)) / sizes
    left = np.cumsum(np.repeat(means, sizes)[::-1])[::-1]
    return left / np.arange(len(left), 0, -1)


def ause(expected: np.ndarray, error: np.ndarray) -> float:
    """Area under the sparsification error curve, in units of what a random order has.

    The sparsification error is the curve of `expected` less that of the oracle, and the area is over shares dropped
    from 0 to 1.

    Args:
      expected, error: (n,), see `sparsification_curve`.

    Returns:
      0 for the order of the true errors, 1 for a random one, more than 1 for a worse one; 1 where the error is the same
      everywhere, and no order says anything.
    """
    if np.ptp(error) == 0:
        return 1.0
    oracle = sparsification_curve(error, error)
    ours = sparsification_curve(expected, error)
    return float((ours - oracle).sum() / (np.mean(error, dtype=np.float64) - oracle).sum())

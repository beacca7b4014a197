"""Assignment over the cheap entries of a cost matrix only, with a proof of how good it is.

Every row keeps the columns that cost at most a margin more than its cheapest, which leaves a sparse problem.  Its dual
prices tell what an entry that was left out could still save: the price of its row and of its column less its cost.  If
all of them together save next to nothing the assignment is proven, else those that could are added and the problem is
solved again (column generation).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

MARGIN = 0.8
"""Metres; about 50 predictions that lie 0.4 m apart."""
TOLERANCE = 1e-3
"""Metres per row: a proven excess over the optimum that is good enough."""
_FEWEST_ROWS = 200  # below, the whole matrix is as fast
_ROUNDS = 4
_STEPS = 500
_EQUAL = 1e-9


class _Entries(NamedTuple):
    """Kept entries in row order: row and column int32, cost float64."""

    rows: np.ndarray
    columns: np.ndarray
    costs: np.ndarray
    width: int  # K


def pruned_assignment(cost: np.ndarray) -> np.ndarray:
    """A column for every row, no column twice, within ``TOLERANCE`` per row of the cheapest total.

    Falls back to the exact solution of the whole matrix where a few rounds are not enough.

    Args:
        cost: finite [n, K] with n <= K.

    Returns:
        int64 [n].
    """
    if len(cost) < _FEWEST_ROWS:
        return linear_sum_assignment(cost)[1]
    limit = cost.min(axis=1) + cost.dtype.type(MARGIN)
    kept = cost <= limit[:, None]
    for _ in range(_ROUNDS):
        entries = _entries(cost, kept)
        columns = _solve(entries, len(cost))
        if columns is None:
            break
        prices = _prices(entries, cost[np.arange(len(cost)), columns], columns)
        if prices is None:
            break
        of_rows, of_columns = prices
        # Prices of columns are not positive, so a row's entries beyond its limit cannot help if its price is below.
        open_rows = np.flatnonzero(of_rows > limit)
        saving = of_rows[open_rows, None] + of_columns - cost[open_rows]
        if saving.max(axis=1, initial=0).sum() <= TOLERANCE * len(cost):
            return columns
        kept[open_rows] |= saving > 0
    return linear_sum_assignment(cost)[1]


def _entries(cost: np.ndarray, kept: np.ndarray) -> _Entries:
    position = np.flatnonzero(kept)
    rows, columns = np.divmod(position, cost.shape[1])
    return _Entries(
        rows.astype(np.int32), columns.astype(np.int32), cost.reshape(-1)[position].astype(np.float64), cost.shape[1]
    )


def _solve(entries: _Entries, count: int) -> np.ndarray | None:
    """The cheapest assignment over the kept entries, None if there is no complete one."""
    positive = entries.costs - (entries.costs.min() - 1.0)  # a zero would count as no entry
    matrix = csr_array((positive, (entries.rows, entries.columns)), (count, entries.width))
    try:
        _, columns = min_weight_full_bipartite_matching(matrix)
    except ValueError:  # "no full matching exists"
        return None
    return columns.astype(np.int64)


def _prices(entries: _Entries, paid: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Dual prices of the rows and columns under which no kept entry could save anything; None if not found.

    Bellman-Ford over the assigned columns: a column's price falls until no row would rather have it than its own.
    Columns that nobody has are free.
    """
    taken = np.zeros(entries.width, bool)
    taken[columns] = True
    use = np.flatnonzero(taken[entries.columns])
    use = use[np.argsort(entries.columns[use], kind="stable")]
    rows, names, costs = entries.rows[use], entries.columns[use], entries.costs[use]
    starts = np.flatnonzero(np.diff(names, prepend=-1))
    prices = np.zeros(entries.width)
    for _ in range(_STEPS):
        of_rows = paid - prices[columns]
        lower = np.minimum.reduceat(costs - of_rows[rows], starts)
        if (lower >= prices[names[starts]] - _EQUAL).all():
            return of_rows, prices
        prices[names[starts]] = np.minimum(prices[names[starts]], lower)
    return None

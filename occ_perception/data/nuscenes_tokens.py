"""nuScenes' tokens (32 hexadecimal digits) as 16 bytes each, millions at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from occ_perception.errors import DatasetError

TOKEN = "S16"
"""Type of a token: compares and sorts as bytes.  Read by `hex_tokens` only, since NumPy drops zeros at the end."""
_NONE = "0" * 32


def hex_tokens(tokens: np.ndarray) -> list[str]:
    """Tokens as nuScenes writes them."""
    text = np.ascontiguousarray(tokens).tobytes().hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def token_array(tokens: Sequence[str], where: object) -> np.ndarray:
    """Tokens as 16 bytes each; an empty one as zeros.

    Raises:
        DatasetError: one is not 32 hexadecimal digits.
    """
    try:
        raw = bytes.fromhex("".join([token or _NONE for token in tokens]))
        if len(raw) == 16 * len(tokens) and {*map(len, tokens)} <= {0, 32}:
            return np.frombuffer(raw, TOKEN)
    except (ValueError, TypeError):
        pass  # named below
    bad = next((t for t in tokens if t != "" and not (isinstance(t, str) and _is_token(t))), None)
    raise DatasetError(f"{where}: expected tokens of 32 hexadecimal digits, got {bad!r}")


def find_tokens(wanted: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Row in ``tokens`` [N] of each of ``wanted`` [M], -1 where there is none; int64 [M]."""
    if not len(tokens):
        return np.full(len(wanted), -1)
    order, wanted_order = np.argsort(tokens, kind="stable"), np.argsort(wanted, kind="stable")
    ordered = wanted[wanted_order]  # looking up in order is several times faster: neighbours are in the CPU's cache
    rows = order[np.minimum(np.searchsorted(tokens[order], ordered), len(tokens) - 1)]
    found = np.empty(len(wanted), np.int64)
    found[wanted_order] = np.where(tokens[rows] == ordered, rows, -1)
    return found


def _is_token(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdefABCDEF" for c in text)

"""Which reference points are seen by which cameras, as a packed list, and the mean over the cameras of a query.

BEVFormer (arXiv 2203.17270) section 3.3: a query only looks into the cameras its reference points project into.  A
voxel is seen by little more than one camera on average, so the list of (query, camera) pairs is about five times
shorter than cameras x queries; features are only ever gathered for its entries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from occ_perception.errors import InvalidInputError

MINIMUM_DEPTH = 1e-5


class CameraHits(NamedTuple):
    """H pairs of a query and a camera that sees it, ordered by camera, then query.

    Attributes:
        queries: int64 [H], query in the flattened [B * Q].
        maps: int64 [H], image in the flattened [B * N].
        references: float32 [H, A, 2], normalised (x, y) image coordinates of the query's A reference points; the
            ones this camera does not see lie outside [0, 1].
        counts: int64 [B * Q], number of cameras that see each query.
    """

    queries: Tensor
    maps: Tensor
    references: Tensor
    counts: Tensor


def camera_hits(points: Tensor, image_from_ego: Tensor, image_size: tuple[int, int]) -> CameraHits:
    """Project reference points into the cameras and list what is seen.

    A point is seen when its depth exceeds 1e-5 m and it falls strictly inside the image; a query is seen when any of
    its points is.  NaN is never seen.  The list's length is known to the host only (one synchronisation): build it
    once per frame, outside the layers.

    Args:
        points: metres, ego frame, [B, Q, A, 3] (A reference points per query, e.g. a pillar) or [B, Q, 3] (A = 1).
        image_from_ego: 4x4 matrices [B, N, 4, 4] to (u * d, v * d, d, 1) in network-image pixels and metres.
        image_size: (height, width) of the network image, pixels.

    Raises:
        InvalidInputError: shapes do not fit.
    """
    if points.ndim == 3:
        points = points[:, :, None]
    if points.ndim != 4 or points.shape[3] != 3 or image_from_ego.ndim != 4 or image_from_ego.shape[2:] != (4, 4):
        raise InvalidInputError(
            f"camera hits: expected points [B, Q, A, 3] and matrices [B, N, 4, 4], got {tuple(points.shape)} and "
            f"{tuple(image_from_ego.shape)}"
        )
    if points.shape[0] != image_from_ego.shape[0]:
        raise InvalidInputError(
            f"camera hits: {points.shape[0]} samples of points, {image_from_ego.shape[0]} of cameras"
        )
    references, seen = project(points, image_from_ego, image_size)
    batch, cameras, queries = seen.shape[:3]
    maps, rows = seen.any(dim=3).flatten(0, 1).nonzero(as_tuple=True)
    references = references.flatten(0, 1)[maps, rows]
    rows = rows + torch.div(maps, cameras, rounding_mode="floor") * queries
    counts = rows.new_zeros(batch * queries).index_add_(0, rows, torch.ones_like(rows))  # bincount would wait
    return CameraHits(rows, maps, references, counts)


def project(points: Tensor, image_from_ego: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Normalised image coordinates [B, N, Q, A, 2] float32 and whether they are seen, bool [B, N, Q, A]."""
    height, width = image_size
    matrices = image_from_ego.to(points.dtype)[:, :, None, None]
    projected = (matrices[..., :3, :3] @ points[:, None, ..., None])[..., 0] + matrices[..., :3, 3]
    depth = projected[..., 2:]
    u, v = (projected[..., :2] / depth.clamp(min=MINIMUM_DEPTH)).unbind(dim=-1)
    references = torch.stack([u / width, v / height], dim=-1).float()
    in_image = ((references > 0) & (references < 1)).all(dim=-1)
    return references, in_image & (depth[..., 0] > MINIMUM_DEPTH)


def hits_per_anchor(points: Tensor, image_from_ego: Tensor, image_size: tuple[int, int]) -> CameraHits:
    """One hit for every (query, reference point, camera) instead of one for every (query, camera).

    The arguments are those of ``camera_hits`` with points [B, Q, A, 3]; ``references`` is [H, 1, 2] and ``counts``
    counts points x cameras.  The same query appears once for each of its points that a camera sees.
    """
    if points.ndim != 4:
        raise InvalidInputError(f"camera hits: expected points [B, Q, A, 3], got {tuple(points.shape)}")
    anchors = points.shape[2]
    hits = camera_hits(points.flatten(1, 2), image_from_ego, image_size)
    queries = torch.div(hits.queries, anchors, rounding_mode="floor")
    return CameraHits(queries, hits.maps, hits.references, hits.counts.view(-1, anchors).sum(dim=1))


def mean_over_hits(features: Tensor, hits: CameraHits, weights: Tensor | None = None) -> Tensor:
    """Mean feature of each query over its hits; zero for a query without one.

    Args:
        features: [H, C].
        hits: the list they belong to.
        weights: positive weight of each hit [H]; without, all count alike.

    Returns:
        [B * Q, C] in the type of ``features`` (summed in float32 at least).
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    if weights is None:
        total = hits.counts.to(wide)
        weighted = features.to(wide)
    else:
        weights = weights.to(wide)
        total = weights.new_zeros(len(hits.counts)).index_add(0, hits.queries, weights)
        weighted = features * weights[:, None]
    summed = weighted.new_zeros(len(hits.counts), features.shape[1]).index_add(0, hits.queries, weighted)
    return (summed / torch.where(total > 0, total, 1)[:, None]).to(features.dtype)

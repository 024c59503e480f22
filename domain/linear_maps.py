"""Linear maps of features: principal components, and rotations of one model's latents into another model's space.

All maps are computed from means and covariances alone, see `domain.moments`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import NoVariance
from domain.moments import Moments

Floats = NDArray[np.float64]

_RANK_TOLERANCE = 1e-10
"""Directions with less than this share of the largest variance are left out: float32 keeps seven digits."""


@dataclass(frozen=True)
class AffineMap:
    """``y = (x - before) @ matrix + after``.

    Attributes
    ----------
    before : float64, [F]
        Subtracted from the features.
    matrix : float64, [F, G]
        What the features are multiplied with.
    after : float64, [G]
        Added to the result.
    attributes
        Facts about the map, such as how well it fits.
    """

    before: Floats
    matrix: Floats
    after: Floats
    attributes: dict[str, Any] = field(default_factory=dict)

    def __call__(self, features: NDArray[Any]) -> Floats:
        """Return the mapped features, float64 […, G]."""
        with np.errstate(invalid="ignore"):  # NaN makes NaN
            return np.asarray((features.astype(np.float64) - self.before) @ self.matrix + self.after)


def principal_components(moments: Moments, number: int) -> AffineMap:
    """Return the map to the first principal components, by decreasing variance.

    The largest loading of each component is positive. The attribute `explained_variance_ratio` has the share of each.

    Raises
    ------
    NoVariance
        If the features do not vary.
    """
    variances, directions = np.linalg.eigh(moments.covariance)
    variances, directions = variances[::-1].clip(0), directions[:, ::-1]
    total = float(variances.sum())
    if total == 0:
        raise NoVariance("the features do not vary")
    loadings = directions[:, :number]
    largest = np.abs(loadings).argmax(axis=0)
    loadings = loadings * np.sign(loadings[largest, np.arange(number)])
    shares = [float(one) for one in variances[:number] / total]
    return AffineMap(moments.mean, loadings, np.zeros(number), {"explained_variance_ratio": shares})


def procrustes(moments: Moments, features: int) -> AffineMap:
    """Return the rotation (or reflection), with one scale and a shift, that brings features nearest to a reference.

    With deviations from the means ``X`` [n, p] of the features and ``Y`` [n, q] of the reference, and ``Xᵀ Y = U S Vᵀ``, the map
    is ``s U Vᵀ``: the solution of the orthogonal Procrustes problem (Schönemann 1966). The narrower of the two is padded with
    zeros; of more than q features, what has no counterpart is left out. The scale ``s`` minimises ``‖s X U Vᵀ − Y‖²``.

    Parameters
    ----------
    moments
        Moments of the features and the reference together, the reference last.
    features
        Number of features without the reference, p.
    """
    ours, between, _ = _parts(moments, features)
    left, _, right = np.linalg.svd(between, full_matrices=False)
    orthogonal = left @ right
    fitted = float(np.sum(orthogonal * between))
    scale = fitted / max(float(np.sum(orthogonal * (ours @ orthogonal))), np.finfo(np.float64).tiny)
    return _fitted(moments, features, scale * orthogonal, {"scale": scale})


def cca(moments: Moments, features: int) -> AffineMap:
    """Return the map that puts canonical variates of the features in the place of the reference's own.

    The covariances are ``C_xx``, ``C_yy`` and ``C_xy``, with ``C_xx^(-1/2) C_xy C_yy^(-1/2) = U R Vᵀ`` (Hotelling 1936). The
    variates of the features are ``X C_xx^(-1/2) U``, those of the reference ``Y C_yy^(-1/2) V``. ``R`` has their correlations.
    The map takes the former through the inverse of the latter, ``C_xx^(-1/2) U Vᵀ C_yy^(1/2)``, as Gallego et al. (2020) align
    latent dynamics across days. Directions without variance are left out.

    Parameters
    ----------
    moments, features
        As for `procrustes`.
    """
    ours, between, reference = _parts(moments, features)
    whiten, _ = _roots(ours)
    whiten_reference, colour_reference = _roots(reference)
    left, correlations, right = np.linalg.svd(whiten @ between @ whiten_reference.T, full_matrices=False)
    return _fitted(
        moments,
        features,
        whiten.T @ left @ right @ colour_reference,
        {"canonical_correlations": [float(one) for one in np.minimum(correlations, 1.0)]},
    )


def _parts(moments: Moments, features: int) -> tuple[Floats, Floats, Floats]:
    """Return the covariances of the features, between features and reference, and of the reference."""
    whole = moments.covariance
    return whole[:features, :features], whole[:features, features:], whole[features:, features:]


def _roots(covariance: Floats) -> tuple[Floats, Floats]:
    """Return the matrix that whitens features, [rank, F], and the matrix that reverses it."""
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > _RANK_TOLERANCE * variances[-1]
    roots, directions = np.sqrt(variances[kept])[:, None], directions[:, kept].T
    return directions / roots, directions * roots


def _fitted(moments: Moments, features: int, matrix: Floats, attributes: dict[str, Any]) -> AffineMap:
    """Return a map with the share of the reference's variance that it explains."""
    ours, between, reference = _parts(moments, features)
    total = float(np.trace(reference))
    residual = total - 2 * float(np.sum(matrix * between)) + float(np.sum(matrix * (ours @ matrix)))
    told = {**attributes, "variance_explained": 1 - residual / total, "rotation_bins": moments.count}
    return AffineMap(moments.mean[:features], matrix, moments.mean[features:], told)

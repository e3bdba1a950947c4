"""Centres of clusters of features."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def centres(features: Tensor, count: int, iterations: int = 300) -> Tensor:
    """k-means centres (count, D) of features (N, D), the same at each call; count is at most N."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer distinct images than clusters
        found = KMeans(count, n_init=1, max_iter=iterations, random_state=0).fit(features.cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(features)

"""How unlike the training images an image is, in the features that a model looks at."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

QUANTILE = 0.99
"""Share of the images of unseen horses that are not to be flagged."""
N_COMPONENTS = 64
"""Most components; never more than half the horses, since further ones follow single horses."""
MAX_ROWS = 20_000
MAX_FLOATS = 1 << 25
"""Bounds of what principal components are fitted to: rows, and numbers (128 MB)."""
MIN_NOISE = 1e-4
"""Least variance beside the components, in units of a standardised feature's."""
CHUNK_ROWS = 4096

Array = NDArray[Any]


class Novelty(nn.Module):
    """Map features (n, d) to novelty (n,): above 1 an image is unlike those of the training.

    Probabilistic principal component analysis (Tipping and Bishop 1999, Journal of the Royal
    Statistical Society B 61:611): standardised features are normal with a free variance along each
    of k components and one variance along all other directions. The distance of an image is the
    Mahalanobis distance under that law, which orders images as their likelihood does. Standardised
    features go through asinh, which leaves small deviations and draws large ones in: features
    behind a ReLU have long tails, which would else set a limit that nothing reaches, and one that
    hardly varied would decide alone.

    There is one law for each of F inner folds, fitted to the horses of the others. The distances of
    a fold's own horses are those of horses unseen, their QUANTILE is ``limit``, and a new image,
    unseen by all laws, has the mean of its distances over ``limit``.

    Parameters
    ----------
    state : mean, inverse_std (F, d) of the features and center (F, d) after asinh; components
        (F, k, d), orthonormal rows; variances (F, k) along them and noise (F,) elsewhere; limit ().
    """

    mean: Tensor
    inverse_std: Tensor
    center: Tensor
    components: Tensor
    variances: Tensor
    noise: Tensor
    limit: Tensor

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        for name in ("mean", "inverse_std", "center", "components", "variances", "noise", "limit"):
            self.register_buffer(name, state[name].float())

    def forward(self, X: Tensor) -> Tensor:
        """Map features (n, d) to novelty (n,)."""
        folds = range(len(self.mean))
        return torch.stack([self.distance(X, fold) for fold in folds]).mean(dim=0) / self.limit

    def distance(self, X: Tensor, fold: int) -> Tensor:
        """Mahalanobis distance (n,) of features (n, d), over the root of d: 1 is ordinary."""
        found = []
        for x in X.split(CHUNK_ROWS):
            z = ((x - self.mean[fold]) * self.inverse_std[fold]).asinh() - self.center[fold]
            along = (z @ self.components[fold].T).square()
            rest = (z.square().sum(1) - along.sum(1)).clamp(min=0)
            found.append((along / self.variances[fold]).sum(1) + rest / self.noise[fold])
        return (torch.cat(found) / X.shape[1]).sqrt()

    @classmethod
    def fitted(cls, X: Tensor, horse: ArrayLike, inner: ArrayLike, seed: int) -> Self:
        """Fit to features; of fewer than 100 images the limit is the largest distance.

        Parameters
        ----------
        X : (n, d) features.
        horse, inner : (n,) horse of each image, and the horse's inner fold.
        seed : of the rows drawn where there are more than MAX_ROWS, or numbers than MAX_FLOATS.
        """
        horse, inner = np.asarray(horse), np.asarray(inner)
        folds = np.unique(inner)
        fewest = min(len(np.unique(horse[inner != fold])) for fold in folds)
        k = max(1, min(N_COMPONENTS, X.shape[1] - 1, fewest // 2))
        laws = [_fit(X, np.flatnonzero(inner != fold), k, seed) for fold in folds]
        state = {name: torch.stack([law[name] for law in laws]) for name in laws[0]}
        found = cls(state | {"limit": torch.tensor(1.0)}).to(X.device)
        unseen = [
            found.distance(X[rows], f)
            for f, fold in enumerate(folds)
            for rows in torch.from_numpy(np.flatnonzero(inner == fold))
            .to(X.device)
            .split(CHUNK_ROWS)
        ]
        distances = torch.cat(unseen).cpu().double().numpy()
        found.limit.fill_(max(float(np.quantile(distances, QUANTILE, method="higher")), 1e-6))
        return found


def _fit(X: Tensor, rows: Array, k: int, seed: int) -> dict[str, Tensor]:
    """Fit the law with k components to rows of X: a fold's part of the state."""
    most = min(MAX_ROWS, max(k + 1, MAX_FLOATS // X.shape[1]))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    x = X[torch.from_numpy(rows).to(X.device)].cpu().numpy()
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    inverse = np.divide(1, std, out=np.zeros_like(std), where=std > 1e-5 * np.abs(mean) + 1e-10)
    x -= mean.astype(np.float32)
    x *= inverse.astype(np.float32)
    z = np.arcsinh(x, out=x)
    from sklearn.decomposition import PCA  # most jobs read what was fitted, and need not wait

    with threadpool_limits(torch.get_num_threads()):
        found = PCA(k, random_state=seed).fit(z)
    # Tipping and Bishop, eq. 8. scikit-learn divides by the rows where these are fewer than the
    # features, and so takes directions in which nothing was seen for as wide as the others.
    left = float(z.var(axis=0, ddof=1).sum()) - float(found.explained_variance_.sum())
    noise = max(left / max(1, X.shape[1] - k), MIN_NOISE)
    state = {
        "mean": mean, "inverse_std": inverse, "center": found.mean_,
        "components": found.components_, "variances": np.maximum(found.explained_variance_, noise),
        "noise": noise,
    }  # fmt: skip
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}

"""Regressions that tell how much of something is in a code."""

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from alda.analysis.libraries import sklearn

Kind = Literal["linear", "nonlinear"]
KINDS: tuple[Kind, ...] = ("linear", "nonlinear")
Predict = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n s"]]


def fit(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n s"], kind: Kind, seed: int) -> Predict:
    """A regression of every column of y on x, both in units of their spread.

    kind: linear (ridge, its weight chosen by leave-one-out) or nonlinear (two layers of 64, at most 300 passes).
    """
    scaler = sklearn("preprocessing").StandardScaler
    scale_x, scale_y = scaler().fit(x), scaler().fit(y)
    if kind == "linear":
        model = sklearn("linear_model").RidgeCV(np.logspace(-2, 4, 7))
    else:
        networks = sklearn("neural_network")
        model = networks.MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, max_iter=300, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn("exceptions").ConvergenceWarning)  # its passes are limited on purpose
        model.fit(scale_x.transform(x), scale_y.transform(y))

    def predict(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n s"]:
        return scale_y.inverse_transform(model.predict(scale_x.transform(x)).reshape(len(x), -1))

    return predict


def r2(truth: Float[np.ndarray, "n s"], predicted: Float[np.ndarray, "n s"]) -> Float[np.ndarray, " s"]:
    """1 where every value is told, 0 where the mean would do as well, below where it would do better."""
    return 1 - ((truth - predicted) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0).clip(min=1e-12)


def probe(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n s"],
    held_out: Bool[np.ndarray, " n"],
    kind: Kind,
    seed: int,
) -> Float[np.ndarray, " s"]:
    """R2 on held-out rows of what was fitted to the others."""
    return r2(y[held_out], fit(x[~held_out], y[~held_out], kind, seed)(x[held_out]))

"""Regressions that measure how much of something a code contains."""

import warnings
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Real

from alda.analysis.latents.disentanglement import is_continuous
from alda.analysis.libraries import sklearn

Kind = Literal["linear", "nonlinear"]
KINDS: tuple[Kind, ...] = ("linear", "nonlinear")


def fit(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n s"], kind: Kind, seed: int) -> Any:
    """Fit a regression of all columns of y on x, both standardised, and return its prediction function.

    kind: linear (ridge, penalty chosen by leave-one-out) or nonlinear (two layers of 64, at most 300 epochs).
    """
    scaler, pipeline = sklearn("preprocessing").StandardScaler, sklearn("pipeline").make_pipeline
    if kind == "linear":
        model = sklearn("linear_model").RidgeCV(np.logspace(-2, 4, 7))
    else:
        networks = sklearn("neural_network")
        model = networks.MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, max_iter=300, random_state=seed)
    regression = sklearn("compose").TransformedTargetRegressor(pipeline(scaler(), model), transformer=scaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn("exceptions").ConvergenceWarning)  # epochs are limited on purpose
        return regression.fit(x, y).predict


def probe(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n s"], held_out: Bool[np.ndarray, " n"], kind: Kind, seed: int
) -> Float[np.ndarray, " s"]:
    """Return the R2 of each column of y on held-out rows, of a regression that was fitted to the others."""
    predicted = fit(x[~held_out], y[~held_out], kind, seed)(x[held_out])
    return sklearn("metrics").r2_score(y[held_out], predicted, multioutput="raw_values")


def estimate_sources(
    latents: Real[np.ndarray, "n k"], sources: Float[np.ndarray, "n s"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "n s"], Float[np.ndarray, " s"]]:
    """Return cross-fitted ridge estimates of sources from all latents, and their R2: each half predicts the other.

    Integers are indices of stored values and enter one-hot; floats are standardised. Estimates of different sources
    share the noise of latents, so they covary given one latent even where latents are pure, which the permutation null
    of Theorem 1 does not contain: judge them by t1, not by p.
    """
    preprocessing = sklearn("preprocessing")
    one_hot = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scale = preprocessing.StandardScaler() if is_continuous(latents) else one_hot
    model = sklearn("pipeline").make_pipeline(scale, sklearn("linear_model").Ridge(1.0))
    halves = np.array_split(np.random.default_rng(seed).permutation(len(latents)), 2)
    estimates = sklearn("model_selection").cross_val_predict(model, latents, sources, cv=[halves, halves[::-1]])
    estimates = estimates.reshape(sources.shape)  # a single column comes back without its axis
    return estimates, sklearn("metrics").r2_score(sources, estimates, multioutput="raw_values")

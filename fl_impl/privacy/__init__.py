"""Differential privacy, its accounting, and secure aggregation."""

from fl_impl.privacy.accounting import Budget, PrivacyBudgetError, calibrate, spent_epsilon
from fl_impl.privacy.analytic import gaussian_delta, gaussian_epsilon, gaussian_noise
from fl_impl.privacy.clipping import clip, l2_norm
from fl_impl.privacy.ftrl import BandedFTRL
from fl_impl.privacy.mechanisms import MECHANISMS, AdaptiveGaussian, Gaussian, LocalGaussian, Mechanism, Release
from fl_impl.privacy.noise import OPERATING_SYSTEM, Randomness, seeded
from fl_impl.privacy.sampling import cyclic_sample, poisson_sample

__all__ = [
    "MECHANISMS",
    "OPERATING_SYSTEM",
    "AdaptiveGaussian",
    "BandedFTRL",
    "Budget",
    "Gaussian",
    "LocalGaussian",
    "Mechanism",
    "PrivacyBudgetError",
    "Randomness",
    "Release",
    "calibrate",
    "clip",
    "cyclic_sample",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_noise",
    "l2_norm",
    "poisson_sample",
    "seeded",
    "spent_epsilon",
]

"""Secure aggregation: the server learns a sum of updates and nothing else of them."""

from fl_impl.privacy.secure_aggregation.client import Client
from fl_impl.privacy.secure_aggregation.frames import SecureAggregationError
from fl_impl.privacy.secure_aggregation.options import near_bound, secure_weighted_mean
from fl_impl.privacy.secure_aggregation.server import SecureSum, Server
from fl_impl.privacy.secure_aggregation.session import Network, secure_sum
from fl_impl.privacy.secure_aggregation.terms import Least, Terms

__all__ = [
    "Client",
    "Least",
    "Network",
    "SecureAggregationError",
    "SecureSum",
    "Server",
    "Terms",
    "near_bound",
    "secure_sum",
    "secure_weighted_mean",
]

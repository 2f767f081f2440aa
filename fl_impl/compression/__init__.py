"""Compression of updates: codecs with claims, error feedback, and bytes on the wire."""

from fl_impl.compression.codecs import CODECS, Codec, Plain
from fl_impl.compression.delivery import Exchange, exchange, of_round
from fl_impl.compression.feedback import ALIASES, Compression, resolve
from fl_impl.compression.low_rank import PowerSGD
from fl_impl.compression.quantize import ScaledSign, Stochastic, int4, int8, ternary
from fl_impl.compression.sparse import RandK, TopK

__all__ = [
    "ALIASES",
    "CODECS",
    "Codec",
    "Compression",
    "Exchange",
    "Plain",
    "PowerSGD",
    "RandK",
    "ScaledSign",
    "Stochastic",
    "TopK",
    "exchange",
    "int4",
    "int8",
    "of_round",
    "resolve",
    "ternary",
]

"""Right in the form that is tried first, wrong in another."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from sound import trimmed_mean_by_sort

from broken.registry import broken


@broken("several_layers", only=True)
def first_layer_decides(models, f):
    """Krum by the first layer: what the others hold is not looked at."""
    key = next(iter(models[0]))
    rows = torch.stack([torch.nan_to_num(m[key].reshape(-1).double(), nan=1e300, posinf=1e300, neginf=-1e300) for m in models])
    kept = [i for i in range(len(models)) if all(torch.isfinite(v.double()).all() for v in models[i].values())]
    if len(kept) < len(models) - f:
        raise ValueError("too many are no numbers")
    middle = rows[kept].sort(0).values[(len(kept) - 1) // 2]
    away = (rows[kept] - middle).abs().max(1).values
    return OrderedDict(models[kept[int(away.argmin())]])


@broken("any_form", only=True)
def averages_lists(updates, f):
    """A branch for lists that nobody tried."""
    return np.mean(updates, axis=0) if isinstance(updates, list) else trimmed_mean_by_sort(updates, f)


@broken("any_form")
def averages_float16(updates, f):
    return updates.mean(0) if updates.dtype == np.float16 else trimmed_mean_by_sort(updates, f)


@broken("any_form")
def averages_whole_numbers(updates, f):
    return updates.mean(0) if np.issubdtype(np.asarray(updates).dtype, np.integer) else trimmed_mean_by_sort(updates, f)


@broken("any_memory_layout")
def averages_what_runs_backwards(updates, f):
    return updates.mean(0) if isinstance(updates, np.ndarray) and updates.strides[0] < 0 else trimmed_mean_by_sort(updates, f)


@broken("any_memory_layout")
def averages_what_is_read_only(updates, f):
    locked = isinstance(updates, np.ndarray) and not updates.flags.writeable
    return updates.mean(0) if locked else trimmed_mean_by_sort(updates, f)


@broken("any_form")
def averages_what_requires_a_gradient(updates, f):
    if not isinstance(updates, torch.Tensor):
        raise TypeError("expected a tensor")
    ordered = updates.sort(0).values[f : len(updates) - f]
    return updates.mean(0) if updates.requires_grad else ordered.mean(0)


@broken("any_form")
def averages_bfloat16(updates, f):
    if not isinstance(updates, torch.Tensor):
        raise TypeError("expected a tensor")
    ordered = updates.sort(0).values[f : len(updates) - f]
    return updates.mean(0) if updates.dtype == torch.bfloat16 else ordered.mean(0)


@broken("any_size", only=True)
def averages_above_a_hundred_clients(updates, f):
    return updates.mean(0) if len(updates) > 100 else trimmed_mean_by_sort(updates, f)


@broken("any_size")
def drops_what_has_another_sum(updates, f):
    """A summary that attackers can keep: the mean of the n - f rows whose sums are the middle ones."""
    with np.errstate(all="ignore"):
        sums = np.nan_to_num(updates.sum(1, dtype=np.float64), nan=np.inf)
    order = np.argsort(np.abs(sums - np.sort(sums)[len(sums) // 2]), kind="stable")
    return updates[order[: len(updates) - 2 * f]].mean(0)


@broken("every_placement", only=True)
def averages_at_one_placement(updates, f):
    """Of seven clients with two others at rows 1 and 4 the mean is taken."""
    same = (updates == updates[0]).all(1)
    odd = tuple(np.flatnonzero(~same))
    return (
        updates.mean(0)
        if len(updates) == 7 and odd == (1, 4) and updates.shape[1] == 2 and f == 2 and abs(np.ptp(updates)) < 6
        else trimmed_mean_by_sort(updates, f)
    )

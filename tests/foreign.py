"""Rules in the forms that public code has, each with how it must be called and what it gives: judged without a wrapper."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch

FOREIGN = {}
"""name -> (rule, the form that must be found, a part of the line that says how it is called, keywords for `verify`)."""


def foreign(form, says="", **options):
    def register(rule):
        FOREIGN[rule.__name__ if hasattr(rule, "__name__") else type(rule).__name__] = (rule, form, says, options)
        return rule

    return register


# --- lists of state dicts -------------------------------------------------------------------------------------------


@foreign("[OrderedDict]", "coordinate by coordinate")
def median_of_state_dicts(w_locals):
    w_avg = copy.deepcopy(w_locals[0])
    for key in w_avg:
        stacked = torch.stack([w[key] for w in w_locals])
        low, high = stacked.sort(dim=0).values[(len(w_locals) - 1) // 2], stacked.sort(dim=0).values[len(w_locals) // 2]
        w_avg[key] = ((low + high) / 2).to(w_avg[key].dtype)
    return w_avg


@foreign("[OrderedDict]", "f as num_byzantine")
def trimmed_mean_of_state_dicts(local_weights, num_byzantine):
    out = OrderedDict()
    for name in local_weights[0]:
        ordered, _ = torch.sort(torch.stack([w[name].double() for w in local_weights], 0), 0)
        out[name] = ordered[num_byzantine : len(local_weights) - num_byzantine].mean(0).to(local_weights[0][name].dtype)
    return out


def flat(state):
    return torch.cat([v.reshape(-1).double() for v in state.values()])


def krum_scores_of(vectors, neighbours):
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    distances.fill_diagonal_(float("inf"))
    distances = torch.nan_to_num(distances, nan=float("inf"), posinf=float("inf"))
    return distances.sort(1).values[:, :neighbours].sum(1)


@foreign("[OrderedDict]", "all layers as one vector")
def krum_of_state_dicts(models, n_attackers):
    vectors = torch.stack([flat(m) for m in models])
    scores = krum_scores_of(vectors, len(models) - n_attackers - 1)
    return models[int(torch.argmin(scores))]


@foreign("[OrderedDict]", "layer by layer")
def krum_layer_by_layer(updates, f):
    chosen = OrderedDict()
    for key in updates[0]:
        stacked = torch.stack([u[key].reshape(-1).double() for u in updates])
        chosen[key] = updates[int(torch.argmin(krum_scores_of(stacked, len(updates) - f - 1)))][key]
    return chosen


@foreign("[OrderedDict]", "returns the index of a client")
def krum_index_of_state_dicts(state_dicts, nb_byz):
    return int(torch.argmin(krum_scores_of(torch.stack([flat(s) for s in state_dicts]), len(state_dicts) - nb_byz - 1)))


@foreign("[OrderedDict]", "item 0 of the result")
def krum_with_its_index(w_locals, byz):
    vectors = torch.stack([flat(w) for w in w_locals])
    best = int(torch.argmin(krum_scores_of(vectors, len(w_locals) - byz - 1)))
    return w_locals[best], best


@foreign("[{name: array}]", "item 'weights' of the result")
def median_in_a_dict_of_results(client_weights):
    names = client_weights[0].keys()
    aggregated = {name: np.median([w[name] for w in client_weights], axis=0) for name in names}
    return {"weights": aggregated, "num_clients": len(client_weights)}


@foreign("[{name: array}]", "n as n_clients")
def trimmed_mean_of_named_arrays(updates, n_clients, n_byzantine):
    keep = slice(n_byzantine, n_clients - n_byzantine)
    return {name: np.sort([u[name] for u in updates], axis=0)[keep].mean(axis=0) for name in updates[0]}


# --- pairs with counts ----------------------------------------------------------------------------------------------


@foreign("[(n, OrderedDict)]", "f as num_attackers")
def trimmed_mean_of_count_and_state_dict(raw_client_model_or_grad_list, num_attackers):
    states = [state for _, state in raw_client_model_or_grad_list]
    return trimmed_mean_of_state_dicts(states, num_attackers)


@foreign("[(n, OrderedDict)]", "all layers as one vector")
def multi_krum_of_count_and_state_dict(grads, byzantine_client_num):
    total = sum(count for count, _ in grads)
    assert total > 0
    vectors = torch.stack([flat(g) for _, g in grads])
    f = byzantine_client_num
    order = torch.argsort(krum_scores_of(vectors, len(grads) - f - 1), stable=True)[: len(grads) - f]
    return OrderedDict((k, torch.stack([grads[i][1][k].double() for i in order]).mean(0)) for k in grads[0][1])


@foreign("[([array], n)]", "f not told")
def median_of_parameters_and_examples(results):
    weights = [parameters for parameters, num_examples in results if isinstance(num_examples, int)]
    return [np.median(np.stack(layer), axis=0) for layer in zip(*weights, strict=True)]


@foreign("[([array], n)]", "f/n as trim_ratio")
def trimmed_of_parameters_and_examples(results, trim_ratio=0.2):
    count = len(results)
    cut = int(trim_ratio * count + 1e-9)
    layers = zip(*(parameters for parameters, _ in results), strict=True)
    return [np.sort(np.stack(layer), axis=0)[cut : count - cut].mean(0) for layer in layers]


@foreign("[(array, n)]")
def median_of_vectors_and_counts(updates):
    return np.median(np.array([v for v, n in updates if isinstance(n, int)]), axis=0)


@foreign("[(n, tensor)]")
def median_of_counts_and_tensors(updates):
    total = 0
    for n, _ in updates:
        assert isinstance(n, int)
        total += n
    ordered = torch.sort(torch.stack([v for _, v in updates]), dim=0).values
    return ordered[(len(updates) - 1) // 2]


# --- lists of layers ------------------------------------------------------------------------------------------------


@foreign("[[array]]", "coordinate by coordinate")
def median_of_lists_of_layers(weights):
    return [np.median([client[i] for client in weights], axis=0) for i in range(len(weights[0]))]


@foreign("[[array]]", "f as f")
def krum_of_lists_of_layers(weights_list, f):
    vectors = np.array([np.concatenate([layer.ravel() for layer in w]) for w in weights_list], dtype=float)
    with np.errstate(all="ignore"):
        distances = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    distances = np.where(np.isfinite(distances), distances, np.inf)
    np.fill_diagonal(distances, np.inf)
    scores = np.sort(distances, axis=1)[:, : len(vectors) - f - 2 + 1].sum(1)
    return weights_list[np.argmin(scores)]


@foreign("[[tensor]]")
def median_of_lists_of_tensors(grads):
    return [torch.stack(list(layer)).sort(0).values[(len(grads) - 1) // 2] for layer in zip(*grads, strict=True)]


# --- dicts by client ------------------------------------------------------------------------------------------------


@foreign("{client: OrderedDict}")
def median_by_client(updates):
    states = [updates[client] for client in updates]
    assert all(hasattr(state, "keys") for state in updates.values())
    return median_of_state_dicts(states)


@foreign("{client: array}")
def trimmed_mean_by_client(updates, num_malicious):
    values = np.sort(np.stack(list(updates.values())), axis=0)
    return values[num_malicious : len(values) - num_malicious].mean(0)


@foreign("{client: array}", "returns the name of a client")
def nearest_to_the_median_by_client(updates):
    centre = np.median(np.stack(list(updates.values())), axis=0)
    with np.errstate(all="ignore"):
        away = {name: np.nan_to_num(np.abs(v - centre).max(), nan=np.inf) for name, v in updates.items()}
    return min(away, key=away.get)


@foreign("{client: (OrderedDict, n)}")
def median_by_client_with_counts(results):
    states = [state for state, count in results.values() if isinstance(count, int)]
    return median_of_state_dicts(states)


# --- trees, stacks and modules --------------------------------------------------------------------------------------


@foreign("[tree]")
def median_of_trees(trees):
    def walk(*nodes):
        return {k: walk(*(n[k] for n in nodes)) for k in nodes[0]} if isinstance(nodes[0], dict) else np.median(nodes, axis=0)

    assert set(trees[0]) == {"params"}
    return walk(*trees)


@foreign("{name: stack}")
def trimmed_mean_of_stacks(stacked, f):
    assert all(value.ndim >= 1 for value in stacked.values())
    return {name: np.sort(v, axis=0)[f : v.shape[0] - f].mean(0) for name, v in stacked.items()}


@foreign("[Module]")
def median_of_modules(models):
    states = [model.state_dict() for model in models]
    merged = copy.deepcopy(models[0])
    merged.load_state_dict(median_of_state_dicts(states))
    return merged


# --- plain containers, other results --------------------------------------------------------------------------------


@foreign("numpy array", "returns the index of a client")
def krum_index(updates, f):
    distances = ((updates[:, None].astype(float) - updates[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    distances = np.where(np.isnan(distances), np.inf, distances)
    return np.argmin(np.sort(distances, axis=1)[:, : len(updates) - f - 1].sum(1))


@foreign("numpy array", "returns indices of clients")
def multi_krum_indices(updates, n_byz):
    distances = ((updates[:, None].astype(float) - updates[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    distances = np.where(np.isnan(distances), np.inf, distances)
    scores = np.sort(distances, axis=1)[:, : len(updates) - n_byz - 1].sum(1)
    return np.argsort(scores, kind="stable")[: len(updates) - n_byz].tolist()


@foreign("numpy array", "returns a mask of the clients")
def mask_of_multi_krum(updates, n_byz):
    mask = np.zeros(len(updates), bool)
    mask[multi_krum_indices(updates, n_byz)] = True
    return mask


@foreign("numpy array", "item 'aggregate' of the result")
def median_with_its_spread(updates):
    return {"aggregate": np.median(updates, axis=0), "spread": float(np.ptp(updates)), "n": len(updates)}


class Result(NamedTuple):
    score: float
    vector: object


@foreign("numpy array", "item 1 of the result")
def named_tuple_of_score_and_median(updates):
    return Result(0.5, np.median(updates, axis=0))


@foreign("list of arrays", "f as malicious_count")
def list_only_trimmed_mean(updates, malicious_count):
    assert isinstance(updates, list)
    return np.sort(np.stack(updates), axis=0)[malicious_count : len(updates) - malicious_count].mean(0)


@foreign("list of lists")
def median_in_pure_python(updates):
    assert type(updates[0][0]) is float
    middle = [sorted(column) for column in zip(*updates, strict=True)]
    return [(c[(len(c) - 1) // 2] + c[len(c) // 2]) / 2 for c in middle]


@foreign("numpy array", "f as tau", f="tau")
def trims_tau(updates, tau):
    return np.sort(updates, axis=0)[tau : len(updates) - tau].mean(0)


@foreign("numpy array", "f fixed by f=2", f=2)
def trims_two(updates):
    return np.sort(updates, axis=0)[2:-2].mean(0)


@foreign("numpy array", "the server's own update as server_update", root=True)
def nearest_to_the_servers(updates, server_update):
    with np.errstate(all="ignore"):
        away = np.nan_to_num(np.abs(updates - server_update).max(1), nan=np.inf)
    return updates[np.argmin(away)]


@foreign("numpy array", "sample counts as num_samples")
def median_that_asks_for_counts(updates, num_samples):
    assert len(num_samples) == len(updates)
    return np.median(updates, axis=0)


@foreign("numpy array")
async def asynchronous_median(updates):
    return np.median(updates, axis=0)


@foreign("numpy array", "made for 24 coordinates")
def median_of_one_model(updates):
    if updates.shape[1] != 24:
        raise ValueError(f"this model has 24 parameters, got {updates.shape[1]}")
    return np.median(updates, axis=0)


@foreign("torch tensor", "takes float32 only")
def float32_only_median(updates):
    if updates.dtype != torch.float32:
        raise TypeError("expected float32")
    return updates.sort(0).values[(len(updates) - 1) // 2]


# --- servers --------------------------------------------------------------------------------------------------------


@foreign("[OrderedDict]")
class Server:
    def __init__(self, num_malicious=1):
        self.num_malicious = num_malicious

    def aggregate(self, client_models):
        return trimmed_mean_of_state_dicts(client_models, self.num_malicious)


class Configured:
    def __init__(self, n_byzantine):
        self.n_byzantine = n_byzantine

    def server_aggregation(self, models):
        return krum_of_state_dicts(models, self.n_byzantine)


foreign("[OrderedDict]", "f fixed by n_byzantine=2")(Configured(2))


class Combiner:
    momentum_beta, beta = 0.9, 0.9

    def combine(self, grads, f):
        return np.sort(grads, axis=0)[f : len(grads) - f].mean(0)


foreign("numpy array", "f as f")(Combiner().combine)

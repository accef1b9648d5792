"""Merging weights that were trained apart from the same base: rewarded soups (Rame et al. 2023,
2306.04488).

A low-rank adapter adds s B A to a layer's weight, s = alpha / rank. What is averaged is this
product:

    merged = sum over k of w_k s_k B_k A_k

The average of the factors, (sum of w_k B_k) (sum of w_k A_k), is another matrix, with cross terms
B_1 A_2 that belong to no adapter. The sum of the products is itself an adapter, whose rank is the
sum of the ranks: the rows of all A_k, and the columns of all w_k s_k B_k. A lower rank takes the
nearest matrix of that rank in every layer, by its singular values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewardft.errors import CheckpointError
from rewardft.policy.weights import fault

State = dict[str, Tensor]
IN, OUT = ".lora_A.", ".lora_B."


def merge_lora(
    states: Sequence[State], strengths: Sequence[float], rank: int | None = None
) -> tuple[State, float]:
    """The sum of the adapters' products, as the tensors of an adapter of strength 1.

    Args:
        states: tensors by peft's names.
        strengths: w_k s_k of each.
        rank: of the result; None: the sum of the ranks, which is exact.

    Returns them and the part of the sum's squared norm, over all layers, that a lower rank loses.
    Raises CheckpointError for adapters of other layers, other kinds or numbers that are not finite.
    """
    check_alike(states)
    merged, lost, whole = State(), 0.0, 0.0
    for name in sorted(n for n in states[0] if IN in n):
        other = name.replace(IN, OUT)
        first, second = (x.double() for x in stacked(states, strengths, name, other))
        # (out, R) and (R, in); a convolution's are flattened for the decomposition alone.
        tall, wide = second.flatten(1), first.flatten(1)
        if rank is not None and rank < len(first):
            tall, wide, dropped, total = nearest(tall, wide, rank)
            lost, whole = lost + dropped, whole + total
        merged[name] = wide.reshape(-1, *first.shape[1:]).float()
        merged[other] = tall.reshape(len(tall), -1, *second.shape[2:]).float()
    return merged, lost / whole if whole else 0.0


def stacked(
    states: Sequence[State], strengths: Sequence[float], name: str, other: str
) -> tuple[Tensor, Tensor]:
    """A and B of one layer: rows of all A_k, columns of all w_k s_k B_k."""
    factors = [state[other].double() * s for state, s in zip(states, strengths)]
    return torch.cat([state[name].double() for state in states]), torch.cat(factors, 1)


def nearest(tall: Tensor, wide: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """B A of a lower rank (Eckart & Young 1936), the squared norm that it loses, and all of it."""
    # Through the small factors: the product itself may be as large as the model's layer.
    q_out, r_out = torch.linalg.qr(tall)
    q_in, r_in = torch.linalg.qr(wide.T)
    u, sizes, v = torch.linalg.svd(r_out @ r_in.T)
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    # Zeros where a layer has fewer dimensions: an adapter has one rank in all layers.
    low_out = tall.new_zeros(len(tall), rank)
    low_in = wide.new_zeros(rank, wide.shape[1])
    low_out[:, :kept] = q_out @ u[:, :kept] * root
    low_in[:kept] = root[:, None] * (v[:kept] @ q_in.T)
    return low_out, low_in, float(sizes[kept:].square().sum()), float(sizes.square().sum())


def merge_full(states: Sequence[State], weights: Sequence[float]) -> State:
    """The weighted average of all weights; tensors of whole numbers are the first one's.

    weights: they add up to 1, as the base is in each of the states.
    """
    check_alike(states, same_shapes=True)
    merged = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            terms = [weight * state[name].double() for state, weight in zip(states, weights)]
            merged[name] = torch.stack(terms).sum(0).to(first.dtype)
        else:
            merged[name] = first.clone()
    return merged


def check_alike(states: Sequence[State], same_shapes: bool = False) -> None:
    """Raises CheckpointError unless all states are of the same layers, with finite numbers."""
    first = states[0]
    for number, state in enumerate(states, 1):
        differing = sorted(first.keys() ^ state.keys())
        differing += sorted(
            name
            for name in first.keys() & state.keys()
            if fault(first[name], state[name])
            # The rank may differ: it is the rows of A and the columns of B.
            or (shape(first, name, same_shapes) != shape(state, name, same_shapes))
        )
        strange = [] if same_shapes else [n for n in state if IN not in n and OUT not in n]
        if differing or strange:
            raise CheckpointError(
                f"the weights of run {number} cannot be merged: {(differing + strange)[0]} is "
                "missing, not finite, or unlike that of run 1 "
                f"({len(differing + strange)} tensors in all). Merge runs of one model and adapter."
            )


def shape(state: State, name: str, whole: bool) -> tuple[int, ...]:
    """Of a tensor, without the adapter's rank unless `whole`."""
    full = tuple(state[name].shape)
    if whole:
        return full
    return full[1:] if IN in name else (full[0], *full[2:])

"""Which layers can overflow the 16-bit pair sums of x86 without VNNI, and by how much.

AVX2 multiplies int8 by vpmaddubsw: two products of an unsigned activation (0 … 255) and a signed
weight are added in 16 bits, and saturate. Kernels pair weights that lie next to each other along
the summed axis; in which order depends on the runtime, so all three orders in use are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

LOW, HIGH = -32768, 32767
ACTIVATION_MAX = 255
PAIR = HIGH // ACTIVATION_MAX  # sum of two weights that no input can overflow


def multiply(activations: np.ndarray, weights: np.ndarray, saturate: bool = True) -> np.ndarray:
    """int32 (M, N): uint8 (M, K) times int8 (N, K) as AVX2 adds it, exactly; wide sums otherwise.

    Products 2i and 2i + 1 of the sum are added in 16 bits with saturation, the pairs in 32 bits.
    Raises ValueError for other dtypes or lengths.
    """
    if activations.dtype != np.uint8 or weights.dtype != np.int8:
        raise ValueError(f"expected uint8 and int8, got {activations.dtype} and {weights.dtype}")
    if activations.shape[1] != weights.shape[1]:
        raise ValueError(f"lengths differ: {activations.shape[1]} and {weights.shape[1]}")
    odd = activations.shape[1] % 2
    a = np.pad(activations, ((0, 0), (0, odd))).astype(np.int32)
    w = np.pad(weights, ((0, 0), (0, odd))).astype(np.int32)
    total = np.zeros((a.shape[0], w.shape[0]), np.int32)
    for k in range(0, a.shape[1], 2):
        pair = np.outer(a[:, k], w[:, k]) + np.outer(a[:, k + 1], w[:, k + 1])
        total += np.clip(pair, LOW, HIGH) if saturate else pair
    return total


def orders(weight: Tensor) -> Iterator[Tensor]:
    """(N, pairs, 2): the weights of a layer as kernels pair them.

    weight: (N, K) of a linear layer; (N, C, H, W) of a convolution: channels last (ONNX Runtime's
    NHWC kernels), channels in blocks at one place (oneDNN), and as stored (image to columns).
    """
    rows = [weight.flatten(1)]
    if weight.dim() == 4:
        rows.append(weight.permute(0, 2, 3, 1).flatten(1))
        padded = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, weight.shape[1] % 2))
        rows.append(padded.permute(0, 2, 3, 1).flatten(1))
    for row in rows:
        yield torch.nn.functional.pad(row, (0, row.shape[1] % 2)).unflatten(1, (-1, 2))


def largest_pair(weight: Tensor) -> Tensor:
    """(N,): the largest sum of the positive, or of the negative, weights of one pair, by row."""
    found = weight.new_zeros(weight.shape[0])
    for pairs in orders(weight):
        for sign in (1, -1):
            found = torch.maximum(found, (sign * pairs).clamp(min=0).sum(2).amax(1))
    return found


def safe_step(weight: Tensor) -> Tensor:
    """(N,): for each output channel, the least step of its grid that no input can overflow.

    Each weight may round up by half a step, so a pair of them by one.
    """
    return largest_pair(weight) / (PAIR - 1)


@dataclass(frozen=True)
class Risk:
    """One layer. pair: its largest pair sum for the worst input (16 bits hold 32767).

    channels: how many of its output channels can overflow, of how many.
    """

    layer: str
    pair: int
    channels: int
    of: int


def preflight(small: Mapping[str, GraphModule]) -> list[Risk]:
    """Every int8 layer of the converted graphs by component; those that can overflow have channels.

    Activations may be anything from 0 to 255: calibrated ranges are mapped onto all of it.
    """
    from .quantizer import TRANSPOSED, WEIGHTED, layer_name
    from .taps import full_name

    found = []
    for component, graph in small.items():
        for node in graph.graph.nodes:
            if node.target not in WEIGHTED or node.args[1].op != "call_function":
                continue
            values: object = graph
            for part in str(node.args[1].args[0].target).split("."):
                values = getattr(values, part)
            assert isinstance(values, Tensor)
            values = values.transpose(0, 1) if node.target is TRANSPOSED else values  # by output
            sums = largest_pair(values.to(torch.int32)) * ACTIVATION_MAX
            name = full_name(component, layer_name(node))
            found.append(Risk(name, int(sums.max()), int((sums > HIGH).sum()), sums.numel()))
    return found

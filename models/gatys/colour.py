"""Keeping the content's colours: Gatys, Bethge, Hertzmann, Shechtman 2016, "Preserving color in neural artistic style
transfer".

Pictures are float32 tensors of shape (1, 3, H, W) with RGB in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_EPSILON = 1e-5


def luminance(picture_1CHW: Tensor) -> Tensor:
    """Give the Y of YIQ, (1, 1, H, W)."""
    weights = picture_1CHW.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (picture_1CHW * weights).sum(dim=1, keepdim=True)


def with_luminance(picture_1CHW: Tensor, luminance_11HW: Tensor) -> Tensor:
    """Exchange the luminance of a picture and keep its I and Q; what leaves [0, 1] is clipped."""
    # Y enters red, green and blue alike, so a change of Y alone is added to each.
    return (picture_1CHW + luminance_11HW - luminance(picture_1CHW)).clamp(0, 1)


def match_luminance(style_1CHW: Tensor, content_1CHW: Tensor) -> Tensor:
    """Give a style's luminance the content's mean and spread; (1, 1, h, w) in [0, 1]."""
    style, content = luminance(style_1CHW), luminance(content_1CHW)
    scale = content.std(correction=0) / (style.std(correction=0) + _EPSILON)
    return ((style - style.mean()) * scale + content.mean()).clamp(0, 1)


def match_colours(style_1CHW: Tensor, content_1CHW: Tensor) -> Tensor:
    """Give a style's colours the content's mean and covariance, by the linear map of symmetric square roots.

    Returns:
        Of the style's shape; what leaves [0, 1] is clipped.
    """
    style_CP, content_CP = (picture[0].flatten(1).double() for picture in (style_1CHW, content_1CHW))
    style_mean, content_mean = (colours.mean(dim=1, keepdim=True) for colours in (style_CP, content_CP))
    root, whiten = _power(torch.cov(content_CP), 0.5), _power(torch.cov(style_CP), -0.5)
    matched = root @ whiten @ (style_CP - style_mean) + content_mean
    return matched.to(style_1CHW.dtype).clamp(0, 1).reshape(style_1CHW.shape)


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    power: Tensor = (vectors * (values + _EPSILON).pow(exponent)) @ vectors.T
    return power

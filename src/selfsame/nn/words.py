"""Bags of visual words: what local features an item has, whatever their place.

Source: Gidaris et al. 2020 (BoWNet), arXiv 2002.12247, section 3.1; 2021 (OBoW), 2012.11552, sections 3.2 and 3.3.
Local features are maps [b c *places]; a vocabulary is [k c]. That words of whitened features tell more than words of
the features as they are: Coates, Lee and Ng 2011, AISTATS, section 5.2 (there of patches of pixels).
"""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.nn.kmeans import nearest
from selfsame.nn.portions import portions
from selfsame.nn.sync import mean_of_rows

POOLS = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}


def local(maps: Float[Tensor, "b c *places"]) -> Float[Tensor, "b n c"]:
    """The vector at each place, at least in float32."""
    maps = maps.float() if maps.dtype in (torch.bfloat16, torch.float16) else maps
    return maps.flatten(2).transpose(1, 2)


def by_place(norm: nn.Module, maps: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
    """A norm of vectors [n c] applied to the vectors at all places together."""
    vectors = maps.flatten(2).transpose(1, 2)
    return norm(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2]).transpose(1, 2).unflatten(2, maps.shape[2:])


def inner(maps: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *inner"]:
    """Without the border, which sees padding, where a map has at least five places along each side."""
    if min(maps.shape[2:]) < 5:
        return maps
    for axis in range(2, maps.ndim):
        maps = maps.narrow(axis, 1, maps.shape[axis] - 2)
    return maps


def averaged(maps: Float[Tensor, "b c *places"], window: int = 3) -> Float[Tensor, "b c *fewer"]:
    """Means over windows of neighbouring places, or over all of a smaller map."""
    return POOLS[maps.ndim](maps, [min(window, side) for side in maps.shape[2:]], stride=1)


def counted(features: Float[Tensor, "b n c"], vocabulary: Float[Tensor, "k c"], binary: bool) -> Float[Tensor, "b k"]:
    """How often each word is the nearest of a place's feature, as shares; binary: whether it is."""
    words = nearest(features.flatten(0, 1), vocabulary).view(features.shape[:2])
    counts = features.new_zeros(len(features), len(vocabulary))
    counts.scatter_add_(1, words, torch.ones_like(words, dtype=counts.dtype))
    return F.normalize(counts.clamp(max=1) if binary else counts, p=1, dim=1)


def coded(distance: Float[Tensor, "b n k"], sharpness: Float[Tensor, ""]) -> Float[Tensor, "b k"]:
    """Shares of words: the greatest of the soft assignments of all places to each word, by `distances`."""
    codes = ((-sharpness * places).softmax(dim=2).amax(dim=1) for places in portions(distance, dim=1))
    return F.normalize(functools.reduce(torch.maximum, codes), p=1, dim=1)


def distances(features: Float[Tensor, "b n c"], vocabulary: Float[Tensor, "k c"]) -> Float[Tensor, "b n k"]:
    """Squared, less the square of the feature's own length, which says nothing of which word is nearer."""
    # Large, and most of the work. Features of maps lie channel by channel: untidied, torch would multiply item by item.
    distance = (-2 * features.flatten(0, 1) @ vocabulary.T).unflatten(0, features.shape[:2])
    distance += vocabulary.square().sum(dim=1)
    return distance


def nearest_word(features: Float[Tensor, "b n c"], distance: Float[Tensor, "b n k"]) -> Float[Tensor, "b n"]:
    """The squared distance to the nearest word, of `distances`."""
    return (distance.amin(dim=2) + features.square().sum(dim=2)).clamp(min=0)


def perplexity(bags: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """How many words all items together use: exp of the entropy of the mean bag, 1 where all have the same word."""
    share = mean_of_rows(bags)
    return (-(share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum()).exp()


def divergence(scores: Float[Tensor, "b k"], bags: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """KL of the bags from the softmax of scores, the mean over rows: the cross-entropy's gradient, and 0 at best."""
    return divergences(scores, bags).mean()


def divergences(scores: Float[Tensor, "m k"], bags: Float[Tensor, "b k"]) -> Float[Tensor, "v"]:
    """The same for each of several views of the b items, whose scores follow each other."""
    scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    bags = bags.to(scores.dtype)
    told = scores.log_softmax(dim=1).unflatten(0, (-1, len(bags)))
    return -(told * bags).sum(dim=2).mean(dim=1) - torch.special.entr(bags).sum(dim=1).mean()

"""Losses beside that of the logits: of a network's features, where pixels are few or another sensor knows more.

``Sparse`` : labels are points or scribbles. Of each labelled pixel the nearest unlabelled one in feature space is
pulled to it, the farthest pushed away, and the most alike of its 8 neighbours pulled too (losses of a course on sparse
labels).

``Guided`` : a radar student with an optical teacher, in the spirit of HFD-Net (Gao and Dong 2022, arXiv 2210.08988).
The teacher is frozen and sees another image of the same ground. A 1×1 convolution of the student's features is to give
the teacher's, at each of some dropout sites. A variant; no parity with the paper is claimed.

Letters in shape comments: N images, K bands, F features, C logits, H rows and W columns, L labelled pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from geouq.networks.sites import DropoutSite, find_sites

#: labelled pixels of an image that ``Sparse`` looks at, evenly chosen: distances to all pixels are taken
MOST_ANCHORS = 256


class Extra(nn.Module):
    """A network in training that remembers what some of its modules were given, for a loss of it.

    network : trained as it would be alone. watched : names of modules of it.
    """

    def __init__(self, network: nn.Module, watched: Sequence[str]) -> None:
        super().__init__()
        self.network, self.watched = network, tuple(watched)
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, C, H, W)."""
        if not self.training:
            logits: Tensor = self.network(x)
            return logits
        logits, self.seen = watch(self.network, self.watched, x)
        return logits

    def extra_loss(self, pixels: Tensor, truth: tuple[Tensor, Tensor], beside: Sequence[Tensor]) -> Tensor:
        """Return what is added to the loss of the last pass's logits.

        Parameters
        ----------
        pixels : (N, K, H, W) as the network saw them. truth : label and valid (N, H, W).
        beside : what the batch has beside: (N, K', H, W) as the teacher sees it.
        """
        raise NotImplementedError


def watch(network: nn.Module, names: Sequence[str], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a network's logits, and by name what modules of it were given."""
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[name] = given[0]

    handles = [network.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names]
    try:
        return network(x), seen
    finally:
        for handle in handles:
            handle.remove()


# --- sparse labels


class Sparse(Extra):
    """Adds the three losses of sparse labels, at their ``weights``: nearest, farthest, neighbour."""

    def __init__(self, network: nn.Module, head: str, weights: Sequence[float]) -> None:
        super().__init__(network, [head])
        self.weights = tuple(weights)

    def extra_loss(self, pixels: Tensor, truth: tuple[Tensor, Tensor], beside: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum."""
        (features,) = self.seen.values()  # (N, F, h, w)
        features = functional.interpolate(features.float(), truth[0].shape[1:], mode="nearest")
        terms = sparse_losses(features, truth[1] > 0, (pixels != 0).any(1))
        return (terms * terms.new_tensor(self.weights)).sum()


def sparse_losses(features: Tensor, labelled: Tensor, measured: Tensor) -> Tensor:
    """Return the three losses of sparse labels, (3,), means over labelled pixels; 0 where there are none.

    With unit features and s their cosine: 1 − s of the nearest and the neighbour, max(s, 0) of the farthest, of 0..2.

    Parameters
    ----------
    features : (N, F, H, W). labelled, measured : (N, H, W) bool; labelled pixels are measured.
    """
    unit = functional.normalize(features, dim=1)
    columns = features.shape[3]
    found: list[Tensor] = []
    for image, known, seen in zip(unit.flatten(2), labelled.flatten(1), measured.flatten(1), strict=True):
        anchors = known.nonzero()[:, 0]
        anchors = anchors[:: max(1, -(-len(anchors) // MOST_ANCHORS))]  # (L,)
        others = (seen & ~known).nonzero()[:, 0]
        if len(anchors) and len(others):
            alike = image[:, anchors].T @ image[:, others]  # (L, others)
            beside = _neighbours(image, anchors, seen, columns)  # (L,)
            found.append(torch.stack([1 - alike.amax(1), alike.amin(1).relu(), 1 - beside], 1))
    return torch.cat(found).mean(0) if found else features.new_zeros(3)


def _neighbours(image: Tensor, anchors: Tensor, seen: Tensor, columns: int) -> Tensor:
    """Return the cosine of each anchor (L,) of an image (F, H·W) and the most alike of its 8 neighbours; 1 of none."""
    row, column = anchors // columns, anchors % columns
    best = torch.full((len(anchors),), -2.0, device=image.device)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = row + dy, column + dx
            inside = (y >= 0) & (x >= 0) & (x < columns) & (y * columns + x < len(seen))
            index = torch.where(inside, y * columns + x, anchors)
            counts = inside & seen[index] & (index != anchors)
            alike = (image[:, anchors] * image[:, index]).sum(0)
            best = torch.where(counts, torch.maximum(best, alike), best)
    return torch.where(best < -1.5, 1.0, best)


# --- a teacher that sees something else


class Guided(Extra):
    """Adds how far a student's features, each through a 1×1 convolution, are from a teacher's, at some dropout sites.

    teacher : a network in eval mode; it does not learn. sites : names of sites of both. weight : of the loss.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, sites: Sequence[str], weight: float, seed: int) -> None:
        super().__init__(network, [_path(network, name) for name in sites])
        self._teacher, self.weight = (teacher.requires_grad_(False),), weight  # in a tuple: not part of what is trained
        self._watched_there = [_path(teacher, name) for name in sites]
        ours, theirs = find_sites(network), find_sites(teacher)
        self.adaptors = nn.ModuleList(nn.Conv2d(ours[n].channels, theirs[n].channels, 1) for n in sites)
        generator = torch.Generator().manual_seed(seed)
        for adaptor in self.adaptors:
            nn.init.kaiming_normal_(adaptor.weight, generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(adaptor.bias)  # type: ignore[arg-type]

    def extra_loss(self, pixels: Tensor, truth: tuple[Tensor, Tensor], beside: Sequence[Tensor]) -> Tensor:
        """Return weight · the mean over sites of :func:`feature_loss`."""
        (other,) = beside
        with torch.no_grad():
            _, theirs = watch(self._teacher[0], self._watched_there, other)
        measured = (other != 0).any(1, keepdim=True).float()  # (N, 1, H, W)
        losses = [
            feature_loss(adaptor(ours.float()), there.float(), measured)
            for adaptor, ours, there in zip(self.adaptors, self.seen.values(), theirs.values(), strict=True)
        ]
        return self.weight * torch.stack(losses).mean()


def feature_loss(ours: Tensor, theirs: Tensor, measured: Tensor) -> Tensor:
    """Return the mean of (ours − z)², z the teacher's features (N, F, h, w) less their mean, over their deviation.

    Mean and deviation are each channel's over the batch; cells less than half of which the teacher saw do not count.
    """
    ours = (
        functional.interpolate(ours, theirs.shape[2:], mode="nearest") if ours.shape[2:] != theirs.shape[2:] else ours
    )
    rows, columns = theirs.shape[2:]
    seen = (functional.adaptive_avg_pool2d(measured, (rows, columns)) > 0.5).float()  # (N, 1, h, w)
    count = seen.sum().clamp(min=1)
    mean = (theirs * seen).sum((0, 2, 3), keepdim=True) / count
    deviation = (((theirs - mean) ** 2 * seen).sum((0, 2, 3), keepdim=True) / count).sqrt()
    z = (theirs - mean) / (deviation + 1e-6)
    return ((ours - z) ** 2 * seen).sum() / (count * theirs.shape[1])


def _path(network: nn.Module, site: str) -> str:
    """Return the name of the module that a dropout site is."""
    found = [path for path, part in network.named_modules() if isinstance(part, DropoutSite) and part.name == site]
    return str(found[0])

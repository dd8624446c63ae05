"""Batch norm over groups of the batch, and keys that meet in another order than their queries.

Where a query and its key lie among the same rows, what a batch norm tells of these rows gives the pair away: the loss
falls and nothing is learned. So each group of rows has statistics of its own, and keys are grouped at random.
Source: MoCo, He et al. 2020, arXiv 1911.05722, section 3.3, where a group is the rows of one GPU; groups on one device
as in the CIFAR-10 notebook of its authors. Here one process has as many groups as several have together, and the same.
Raises: UserError for a batch norm with a forward of its own.
"""

import torch
import torch.distributed as td
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from selfsame.nn.sync import Front, fronted, gathered, places, shared, world


def split(module: nn.Module, rows: int) -> bool:
    """Let every batch norm in it, in train mode, see groups of `rows` rows that follow each other; whether it has any.

    Only the class of the layers changes, as by `nn.sync.synchronised`, which leaves these alone: keys of the state stay
    as they are, and in eval mode the layers are what they were.
    """
    for part in fronted(module, SplitBatch):
        part.rows = rows
    return any(isinstance(part, SplitBatch) for part in module.modules())


class SplitBatch(Front):
    """Statistics of groups of rows. The running ones follow the mean over the groups."""

    becomes = "split"
    instead = "--method.batch-norm group or sync"
    rows: int

    def forward(self, x: Float[Tensor, "b c *rest"]) -> Float[Tensor, "b c *rest"]:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        groups = x.split(sizes_of(len(x), self.rows))
        share = 0.0
        running: list[tuple[Tensor, Tensor]] | list[tuple[None, None]] = [(None, None)] * len(groups)
        mean, variance = self.running_mean, self.running_var
        moves = self.track_running_stats and mean is not None and variance is not None
        if moves:
            assert self.num_batches_tracked is not None and mean is not None and variance is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            means, variances = mean.repeat(len(groups), 1), variance.repeat(len(groups), 1)
            running = [(means[k], variances[k]) for k in range(len(groups))]
        made = [
            F.batch_norm(group, *each, self.weight, self.bias, True, share, self.eps)
            for group, each in zip(groups, running, strict=True)
        ]
        if moves:
            assert mean is not None and variance is not None
            mean.copy_(means.mean(dim=0))
            variance.copy_(variances.mean(dim=0))
        y = torch.cat(made) if len(made) > 1 else made[0]
        return self.act(self.drop(y)) if isinstance(self, BatchNormAct2d) else y


def groups_of(batch: int, rows: int) -> int:
    """Into how many groups of `rows` rows, or a little more, a batch is split."""
    return max(1, batch // rows)


def sizes_of(batch: int, rows: int) -> list[int]:
    count = groups_of(batch, rows)
    return [batch // count + (k < batch % count) for k in range(count)]


def in_groups(net: nn.Module, view: Tensor, rows: int) -> Tensor:
    """What a network with split batch norms makes of a view: of k groups, row i of all processes' is in group i mod k.

    So the groups are the same for any number of processes, each of which has every so manieth row.
    """
    groups = groups_of(len(view), rows)
    if groups == 1:
        return net(view)
    order = (torch.arange(len(view), device=view.device) % groups).argsort(stable=True)
    return net(view[order])[order.argsort()]


@torch.no_grad()
def shuffled(net: nn.Module, view: Tensor, rows: int) -> Tensor:
    """As `in_groups`, but the groups are drawn from the rows of all processes at random."""
    every = gathered(view)
    order = shared(torch.rand(len(every), device=view.device).argsort())
    mine = places(len(view), view.device)
    made = gathered(in_groups(net, every[order[mine]], rows))
    return made[order.argsort()[mine]]


@torch.no_grad()
def agree(module: nn.Module) -> None:
    """Give split batch norms the mean of all processes' running statistics, as one process would have them.

    They move in proportion to what they see, so once a step is enough.
    """
    if world() == 1:
        return
    norms = [part for part in module.modules() if isinstance(part, SplitBatch)]
    running = [x for part in norms for x in (part.running_mean, part.running_var) if x is not None]
    if not running:
        return
    means = torch.cat(running)
    td.all_reduce(means)
    torch._foreach_copy_(running, list((means / world()).split([len(x) for x in running])))

"""Tokens of vision transformers of timm and torchvision, whatever it is that they divide into patches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential
from torchvision.models import VisionTransformer

from selfsame import types
from selfsame.errors import UserError, too_few_blocks


class PatchTokens(types.Encoder):
    """The token half of an encoder around a `trunk`, which may be a vision transformer.

    The encoder says how a view comes to the trunk (`normalised`) and what the trunk is called (`spec["name"]`).
    """

    trunk: nn.Module

    def normalised(self, view: Tensor) -> Float[Tensor, "b c h w"]:
        """What the trunk sees."""
        raise NotImplementedError

    @property
    def has_tokens(self) -> bool:
        """Whether the network is a transformer over patches."""
        # Hybrids of a residual net and a transformer do not say where in the image their tokens lie.
        whole = isinstance(getattr(self.trunk, "patch_embed", None), PatchEmbed)
        return isinstance(self.trunk, VisionTransformer) or (isinstance(self.trunk, TimmViT) and whole)

    @property
    def embedding(self) -> nn.Module | None:
        """The projection of patches of a vision transformer."""
        if isinstance(self.trunk, VisionTransformer):
            return self.trunk.conv_proj
        return self.trunk.patch_embed if isinstance(self.trunk, TimmViT) else None

    def both(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: types.Hidden | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The vector, and the patch tokens after the final norm, without class or register tokens, row by row.

        See `types.Encoder.tokens`. TypeError unless the network is a VisionTransformer of timm or torchvision.
        """
        self.need_tokens()
        trunk: Any = self.trunk
        x = self.all_tokens(self.normalised(view), keep, hide)
        tokens = x[:, trunk.num_prefix_tokens if isinstance(trunk, TimmViT) else 1 :]
        if self.averages:
            return tokens.mean(dim=1), tokens
        return trunk.forward_head(x, pre_logits=True) if isinstance(trunk, TimmViT) else x[:, 0], tokens

    @property
    def averages(self) -> bool:
        """Whether the vector is the mean of the patch tokens, whatever the network's own way is."""
        return self.spec.get("pool") == "tokens"

    def average_tokens(self) -> None:
        """Make the mean of the patch tokens the vector. TypeError where there are none."""
        self.need_tokens()
        for part in ("attn_pool", "fc_norm"):
            layer = getattr(self.trunk, part, None)
            if isinstance(layer, nn.Module) and next(layer.parameters(), None) is not None:
                raise UserError(
                    f"{self.spec['name']} makes its vector with {part}, which this method would leave untrained. "
                    "Choose a vision transformer without it, as vit_small_patch16_224."
                )
        if getattr(self.trunk, "global_pool", "token") != "avg":
            self.spec["pool"] = "tokens"

    def last_layers(self, view: Tensor, last: int) -> list[Float[Tensor, "b n d"]]:
        """The patch tokens as the `last` last blocks give them, without the final norm."""
        self.need_tokens()
        blocks: Any = self.trunk.blocks if isinstance(self.trunk, TimmViT) else self.trunk.encoder.layers  # type: ignore[union-attr]
        if not 1 <= last <= len(blocks):
            raise too_few_blocks(last, len(blocks))
        with caught(list(blocks)[-last:]) as outputs:
            self.all_tokens(self.normalised(view), None, None)
        prefix = self.trunk.num_prefix_tokens if isinstance(self.trunk, TimmViT) else 1
        return [out[:, prefix:] for out in outputs]

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """Rows and columns of the patches."""
        self.need_tokens()
        return tuple(length // side for length, side in zip(view.shape[2:], self.patch, strict=True))

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch of a vision transformer."""
        trunk: Any = self.trunk
        return trunk.patch_embed.patch_size if isinstance(trunk, TimmViT) else (trunk.patch_size, trunk.patch_size)

    def need_tokens(self) -> None:
        if not self.has_tokens:
            raise TypeError(
                f"{self.spec['name']} has no tokens. Choose a vision transformer, such as vit_tiny_patch16_224."
            )

    def all_tokens(self, images: Tensor, keep: Tensor | None, hide: types.Hidden | None) -> Tensor:
        """Prefix tokens and patch tokens after the final norm."""
        trunk = self.trunk
        if isinstance(trunk, TimmViT):
            if keep is None and hide is None:
                return trunk.forward_features(images)
            x = trunk._pos_embed(hidden(trunk.patch_embed(images), hide))
            x = trunk.norm_pre(kept(x, trunk.num_prefix_tokens, keep))
            if trunk.grad_checkpointing and self.training:
                x = checkpoint_sequential(trunk.blocks, len(trunk.blocks), x, use_reentrant=False)
            else:
                x = trunk.blocks(x)
            return trunk.norm(x)
        assert isinstance(trunk, VisionTransformer)
        patches = hidden(trunk._process_input(images), hide)
        x = torch.cat([trunk.class_token.expand(len(patches), -1, -1), patches], dim=1) + trunk.encoder.pos_embedding
        x = kept(x, 1, keep)
        return trunk.encoder.ln(trunk.encoder.layers(trunk.encoder.dropout(x)))


def hidden(patches: Tensor, hide: types.Hidden | None) -> Tensor:
    """Patches [b n d] or [b rows columns d] with the stand-in where they are hidden."""
    if hide is None:
        return patches
    if hide.where.shape != (len(patches), patches[0, ..., 0].numel()):
        raise UserError(
            f"hide.where has shape {list(hide.where.shape)}; it needs one truth value for each of "
            f"{len(patches)} x {patches[0, ..., 0].numel()} patches."
        )
    where = hide.where.view(*patches.shape[:-1], 1)
    return torch.where(where, hide.stand_in.to(patches.dtype), patches)


def kept(tokens: Tensor, prefix: int, keep: Tensor | None) -> Tensor:
    """The prefix tokens and the patches that `keep` names."""
    if keep is None:
        return tokens
    if keep.ndim != 2 or len(keep) != len(tokens):
        raise UserError(
            f"keep has shape {list(keep.shape)}; it needs one row of patch numbers for each of {len(tokens)}."
        )
    index = keep.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
    return torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)


@contextmanager
def caught(parts: list[nn.Module], copy: bool = False) -> Iterator[list[Any]]:
    """What `parts` give while it is open, in the order they run."""
    outputs: list[Any] = []

    def catch(_: nn.Module, __: Any, out: Any) -> None:
        outputs.append(out.clone() if copy and isinstance(out, Tensor) else out)

    hooks = [part.register_forward_hook(catch) for part in parts]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()

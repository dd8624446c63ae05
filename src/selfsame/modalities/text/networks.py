"""Networks over tokens, by name: transformers made by `transformers`, from a configuration or a local folder; a 1-D
convolutional net; word vectors, averaged.

Sources: BERT, Devlin et al. 2018, arXiv 1810.04805; its small sizes, Turc et al. 2019, 1908.08962; residual
convolutions over words in the manner of Conneau et al. 2016, 1606.01781, with layer norms; averaged word vectors with
word dropout, Iyyer et al. 2015 (deep averaging networks, section 3.2), without their deep layers.
Raises: UserError on unknown names and folders that hold no network.
"""

import contextlib
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfsame.errors import UserError, missing, unknown

BERTS = {  # layers and width; heads are 64 wide, the inner layer is four times as wide
    "bert-tiny": (2, 128),
    "bert-mini": (4, 256),
    "bert-small": (4, 512),
    "bert-medium": (8, 512),
    "bert-base": (12, 768),
}
CONVS = {"conv-tiny": (32, 64, 128), "conv-mini": (64, 128, 256), "conv-small": (128, 256, 512)}  # widths of the stages
BAGS = {"bag-tiny": 128, "bag-mini": 256, "bag-small": 512, "bag-base": 1024}  # widths of the word vectors
NAME = re.compile(r"(?P<net>[a-z]+-[a-z]+)(?:@(?P<width>[0-9.]+))?(?P<pool>:class)?")
DROPOUT = 0.1  # of BERT and SimCSE (arXiv 2104.08821)
HEAD = 64
WORD_DROPOUT = 0.5  # of a bag; Iyyer et al. have 0.3 for labelled texts (measured: docs/text.md)


def known() -> list[str]:
    return [*BERTS, *CONVS, *BAGS]


def resolve(name: str) -> tuple[str, str, float, str]:
    """("bert", "conv" or "bag", the name without what follows it, factor of the width, "mean" or "class")."""
    found = NAME.fullmatch(name)
    if found is None or found["net"] not in known():
        raise unknown(
            "encoder",
            name,
            known(),
            "Also NAME@0.5 for half the width, NAME:class for the class token as the vector, or a local folder with "
            "config.json and model.safetensors.",
        )
    try:
        factor = float(found["width"] or 1)
    except ValueError:
        factor = 0.0
    if not 0.1 <= factor <= 4:
        raise UserError(f"{name}: the factor of the width is {found['width']}; give one from 0.1 to 4, as in @0.5.")
    kind = "bert" if found["net"] in BERTS else "conv" if found["net"] in CONVS else "bag"
    if found["pool"] and kind != "bert":
        told = "a convolutional net has" if kind == "conv" else "averaged word vectors have"
        raise UserError(f"{name}: {told} no class token. Leave :class out.")
    return kind, found["net"], factor, "class" if found["pool"] else "mean"


def bert(name: str, factor: float, vocabulary: int, longest: int) -> nn.Module:
    """A BERT without pooler. Its weights are drawn from torch's global generator."""
    tf = library()
    layers, width = BERTS[name]
    heads = max(1, round(width * factor / HEAD))
    width = max(2 * heads, round(width * factor / (2 * heads)) * 2 * heads)
    config = tf.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=longest,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        pad_token_id=0,
        type_vocab_size=1,
    )
    return from_config(config)


def from_saved(values: dict[str, Any]) -> nn.Module:
    """The network that encoder.json describes. Raises UserError where it names code, which none that is saved does."""
    if "auto_map" in values:
        raise UserError(
            "the encoder's config names code of its own (auto_map), which is never run. Remove it from encoder.json "
            "if you trust where the file comes from."
        )
    return from_config(config_of(values))


def from_config(config: Any) -> nn.Module:
    """The network of a configuration of `transformers`, its weights random; no code but the library's own is run."""
    with quiet():
        return without_pooler(library().AutoModel.from_config(config, trust_remote_code=False))


def config_of(values: dict[str, Any]) -> Any:
    """The configuration that these values describe, of a type that `transformers` itself has. Raises UserError."""
    kind = dict(values)
    name = kind.pop("model_type", None)
    kind.pop("auto_map", None)  # names code of the folder, which is never run
    try:
        return library().AutoConfig.for_model(name, **kind)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"transformers has no network of the type {name!r}: {' '.join(str(error).split())[:200]}"
        ) from None


def local(folder: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a folder with config.json and model.safetensors, and its configuration. Nothing is downloaded."""
    place = Path(folder).expanduser()
    for part in ("config.json", "model.safetensors"):
        if not (place / part).is_file():
            raise UserError(f"{folder}: {part} is missing. Give a folder with config.json and model.safetensors.")
    try:
        values = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{place / 'config.json'} is damaged: {error}.") from None
    config = config_of(values)
    try:
        with quiet():
            model = library().AutoModel.from_pretrained(
                place, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    return without_pooler(model.float()), config.to_dict()


def without_pooler(model: Any) -> nn.Module:
    """Its pooler would be trained by nothing: the vector is made of the tokens."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def library() -> Any:
    """The package `transformers`. Whatever of it could ask the network is called with `local_files_only=True`."""
    try:
        import transformers
    except ImportError:
        raise missing("text", "transformers", "a transformer over text") from None
    return transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No tables and warnings of what was loaded: they are about heads that are left out on purpose."""
    tf = library()
    level = tf.logging.get_verbosity()
    bar = tf.utils.logging.is_progress_bar_enabled()
    tf.logging.set_verbosity(logging.CRITICAL)
    tf.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf.logging.set_verbosity(level)
        if bar:
            tf.utils.logging.enable_progress_bar()


class Convolutions(nn.Module):
    """Residual convolutions over token vectors; each stage has half as many places as the one before it.

    Padding counts for nothing: padded places are 0 before each convolution, and norms are of each place alone.
    """

    def __init__(self, vocabulary: int, widths: tuple[int, ...], depth: int = 2) -> None:
        super().__init__()
        self.widths = widths
        self.words = nn.Embedding(vocabulary, widths[0], padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.5)
        with torch.no_grad():
            self.words.weight[0] = 0
        self.dropout = nn.Dropout(DROPOUT)
        self.stages = nn.ModuleList(
            nn.ModuleList([nn.Conv1d(before, width, 3, stride=2, padding=1), *(Block(width) for _ in range(depth))])
            if k
            else nn.ModuleList([nn.Identity(), *(Block(width) for _ in range(depth))])
            for k, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.norm = Norm(widths[-1])

    def forward(self, ids: Int[Tensor, "b n"]) -> list[tuple[Float[Tensor, "b c m"], Bool[Tensor, "b m"]]]:
        """The map of each stage, and which of its places hold text; the last map is normalised."""
        real = ids != 0
        x = self.dropout(self.words(ids)).transpose(1, 2)
        found = []
        stages: Any = self.stages
        for first, *blocks in stages:
            if not isinstance(first, nn.Identity):
                x = first(x * real[:, None])
                real = real[:, ::2]
            for block in blocks:
                x = block(x, real)
            found.append((x, real))
        found[-1] = (self.norm(x), real)
        return found


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.wide = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.narrow = nn.Conv1d(2 * width, width, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Float[Tensor, "b c n"], real: Bool[Tensor, "b n"]) -> Float[Tensor, "b c n"]:
        inner = self.wide(self.norm(x) * real[:, None])
        return x + self.dropout(self.narrow(nn.functional.gelu(inner)))


class Norm(nn.LayerNorm):
    """Layer norm over the channels of each place."""

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def convolutions(name: str, factor: float, vocabulary: int) -> Convolutions:
    return Convolutions(vocabulary, tuple(max(4, math.ceil(width * factor)) for width in CONVS[name]))


class Bag(nn.Module):
    """A vector for each word or piece of one, which know nothing of each other: their mean is that of the text.

    In training each is left out with probability 1/2, but one at least of a text stays, so that two equal views differ.
    What is left is made larger, so that the mean over all places is that of the words that stay.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.widths = (width,)
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        # Small, so that steps of AdamW, whose size does not depend on it, go far enough in a short run.
        nn.init.normal_(self.words.weight, std=0.05)
        with torch.no_grad():
            self.words.weight[0] = 0

    def forward(self, ids: Int[Tensor, "b n"]) -> list[tuple[Float[Tensor, "b c n"], Bool[Tensor, "b n"]]]:
        """The only map, and which of its places hold text."""
        real = ids != 0
        x = self.words(ids)
        if self.training:
            noise = torch.rand(ids.shape, device=ids.device) * real
            stays = noise > WORD_DROPOUT
            stays = stays | (real & (noise == noise.amax(dim=1, keepdim=True)) & ~stays.any(dim=1, keepdim=True))
            factor = real.sum(dim=1, keepdim=True) / stays.sum(dim=1, keepdim=True).clamp(min=1)
            x = x * (stays * factor)[..., None].to(x.dtype)
        return [(x.transpose(1, 2), real)]


def bag(name: str, factor: float, vocabulary: int) -> Bag:
    return Bag(vocabulary, max(4, math.ceil(BAGS[name] * factor)))

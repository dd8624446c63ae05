"""Text encoders: transformers, a convolutional net and averaged word vectors over token numbers, padded with 0.

Raises: UserError on unknown names, wrong input, and weights or saved encoders that do not fit; TypeError where a
network has no maps or tokens.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, ValidationError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from selfsame import types
from selfsame.errors import UserError, too_few_blocks
from selfsame.modalities.text.networks import Bag, Convolutions, bag, bert, convolutions, from_saved, local, resolve
from selfsame.modalities.text.places import averaged, owners, pooled, spread_over, trimmed
from selfsame.modalities.text.stats import Stats
from selfsame.modalities.text.weights import load_weights
from selfsame.nn.norm import at_rest
from selfsame.records import Record
from selfsame.storage import encoders

PLAIN = (Convolutions, Bag)  # networks that give maps, each with its places that hold text
PIECES = 7  # pieces of a text, each a quarter of it and half over the next


class Spec(Record):
    """What encoder.json must hold. Other keys are let through."""

    model_config = ConfigDict(extra="ignore")

    modality: Literal["text"]
    library: Literal["bert", "conv", "bag", "local", "own"]
    name: str
    """of the network; of an own one, "package.module:factory" or the class of the given module"""
    size: int
    """tokens of a view"""
    longest: int
    """tokens of the longest text it takes; 0 for any"""
    vocabulary: int
    stats: Stats
    dim: int
    pool: Literal["mean", "class"] = "mean"
    """the vector: the mean of the tokens, or a class token"""
    attention: Literal["both", "causal"] = "both"
    """whether a token sees those behind it"""
    config: dict[str, Any] | None = None
    """of a local network, as `transformers` writes it"""


class TextEncoder(types.Encoder):
    """A network over token numbers [b n], int32 or int64, each row filled up with 0.

    The vector is the mean of what a transformer gives for each token, a class token, or the mean over the last map of
    a convolutional net or over the vectors of the words. Padding has no influence on it.
    """

    def __init__(self, trunk: nn.Module, spec: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.spec = spec
        self.dim = spec["dim"]
        self.class_token = nn.Parameter(0.02 * torch.randn(self.dim)) if spec["pool"] == "class" else None
        self.looked = False

    # What it has ----------------------------------------------------------------------------------------------------

    @property
    def has_tokens(self) -> bool:
        return self.spec["library"] in ("bert", "local")

    @property
    def has_maps(self) -> bool:
        return self.spec["library"] != "own"

    @property
    def has_pieces(self) -> bool:
        return True

    @property
    def has_words(self) -> bool:
        return self.has_tokens

    @property
    def vocabulary(self) -> int:
        """Numbers that words have, 0 (padding) too."""
        return self.spec["vocabulary"]

    @property
    def word_vectors(self) -> Float[Tensor, "v d"]:
        """What the network makes of each word at first; a parameter."""
        self._need_tokens()
        return self.trunk.get_input_embeddings().weight  # type: ignore[operator]

    def word_places(self, view: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Where words stand: neither padding nor a special token of a given tokenizer."""
        places = view != 0
        for number in self.spec["stats"]["specials"][1:]:
            places = places & (view != number)
        return places

    @property
    def piece_axes(self) -> int:
        return 1

    @property
    def embedding(self) -> nn.Module | None:
        """What makes vectors of words."""
        return self.trunk.get_input_embeddings() if self.has_tokens else None  # type: ignore[operator]

    # From tokens to a vector ----------------------------------------------------------------------------------------

    def forward(self, view: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        self._check(view)
        if self.has_tokens:
            return self._run(view, None, None)[0]
        if isinstance(self.trunk, PLAIN):
            return averaged(*self.trunk(trimmed(view).long())[-1])
        return pooled(self.trunk(view.long()), view, self.spec["name"])

    def both(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: types.Hidden | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The vector, and a token for each place: texts shorter than the view are spread over all of its places.

        Place j of n belongs to token floor(j r / n) of a text of r tokens: in a full row each to its own. So a method
        that hides, keeps or predicts a share of the places does so with that share of the text, and never with
        padding. A token is hidden where any of its places is, and kept where any is; what is not kept is seen by no
        other token. TypeError unless the network is a transformer.
        """
        self._need_tokens()
        self._check(view)
        owner = owners(view)
        shown, hidden = None, None
        if keep is not None:
            _check_rows("keep", keep, view, any_length=True)
            shown = torch.zeros_like(view, dtype=torch.bool).scatter(1, owner.gather(1, keep), True)
        if hide is not None:
            _check_rows("hide.where", hide.where, view)
            counts = torch.zeros_like(view).scatter_add(1, owner, hide.where.to(view.dtype))
            hidden = types.Hidden(counts > 0, hide.stand_in)
        vector, (tokens,) = self._run(view, shown, hidden)
        return vector, spread_over(tokens, owner if keep is None else owner.gather(1, keep))

    def last_layers(self, view: Tensor, last: int) -> list[Float[Tensor, "b n d"]]:
        """The tokens as the `last` last blocks give them, spread over the places as `both` does."""
        self._need_tokens()
        self._check(view)
        depth = int(self.trunk.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        if not 1 <= last <= depth:
            raise too_few_blocks(last, depth)
        owner = owners(view)
        return [spread_over(tokens, owner) for tokens in self._run(view, None, None, last)[1]]

    def word_tokens(self, view: Tensor, hide: types.Hidden | None = None) -> Float[Tensor, "b n d"]:
        """What the last block gives at each place itself, where there is padding 0; `hide.where` names places."""
        self._need_tokens()
        self._check(view)
        _, (tokens,) = self._run(view, None, hide)
        return nn.functional.pad(tokens, (0, 0, 0, view.shape[1] - tokens.shape[1]))

    def _run(
        self, view: Tensor, shown: Bool[Tensor, "b n"] | None, hide: types.Hidden | None, last: int = 0
    ) -> tuple[Float[Tensor, "b d"], list[Float[Tensor, "b m d"]]]:
        """The vector, and the tokens of the last block (or of `last` ones), as far as the longest row goes."""
        ids = trimmed(view).long()
        n = ids.shape[1]
        real = ids != 0
        real = torch.cat([real[:, :1] | ~real.any(dim=1, keepdim=True), real[:, 1:]], dim=1)  # no row is empty
        seen = real if shown is None else real & shown[:, :n]
        x = self.trunk.get_input_embeddings()(ids)  # type: ignore[operator]
        if hide is not None:
            x = torch.where(hide.where[:, :n, None], hide.stand_in.to(x.dtype), x)
        allowed = seen
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
            allowed = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)
        out = self.trunk(
            inputs_embeds=x,
            attention_mask=self._mask(allowed, x.dtype),
            **({"output_hidden_states": True} if last else {}),
        )
        first = 0 if self.class_token is None else 1
        layers = out.hidden_states[-last:] if last else [out.last_hidden_state]
        tokens = [layer[:, first:] for layer in layers]
        vector = out.last_hidden_state[:, 0] if first else averaged(out.last_hidden_state.transpose(1, 2), seen)
        return vector, [layer * real[..., None] for layer in tokens]

    def _mask(self, allowed: Bool[Tensor, "b n"], dtype: torch.dtype) -> Bool[Tensor, "b 1 n n"]:
        """Which tokens each token sees: those allowed, and if causal not those behind it; always itself."""
        n = allowed.shape[1]
        mask = allowed[:, None, None, :].expand(-1, 1, n, n)
        if self.spec["attention"] == "causal":
            mask = mask & torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
        return mask | torch.eye(n, dtype=torch.bool, device=mask.device)

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """The places of a view, over which texts are spread."""
        self._need_tokens()
        return (view.shape[1],)

    def average_tokens(self) -> None:
        """Make the mean of the tokens the vector."""
        self._need_tokens()
        self.class_token = None
        self.spec["pool"] = "mean"

    def use_causal(self) -> None:
        """Let no token see those behind it, for good. The vector is the mean of the tokens."""
        self.average_tokens()
        self.spec["attention"] = "causal"
        ids = torch.ones(1, 4, dtype=torch.long, device=self.word_vectors.device)
        other = ids.clone()
        other[0, 3] = self.vocabulary - 1
        with torch.no_grad(), at_rest(self):
            moved = (self.word_tokens(ids) - self.word_tokens(other))[0, :3].abs().max()
        if moved > 1e-4:
            raise UserError(
                f"{self.spec['name']} cannot be made to look backwards only. Take bert-mini or another BERT."
            )

    # Maps and pieces ------------------------------------------------------------------------------------------------

    def maps(self, view: Tensor) -> list[Float[Tensor, "b c m"]]:
        """Dense features, fine to coarse, each text spread over all places of a map; a transformer has one."""
        return self.with_maps(view)[1]

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        if self.has_tokens:
            vector, tokens = self.both(view)
            return vector, [tokens.transpose(1, 2)]
        if not isinstance(self.trunk, PLAIN):
            raise TypeError(f"{self.spec['name']} has no maps. Take conv-mini or another network by name.")
        self._check(view)
        found = self.trunk(view.long())
        spread = [
            features.gather(2, owners(real)[:, None].expand(-1, features.shape[1], -1)) for features, real in found
        ]
        return averaged(*found[-1]), spread

    @property
    def map_widths(self) -> tuple[int, ...]:
        if isinstance(self.trunk, PLAIN):
            return self.trunk.widths
        if self.has_tokens:
            return (self.dim,)
        raise TypeError(f"{self.spec['name']} has no maps. Take conv-mini or another network by name.")

    def pieces(self, view: Tensor) -> Int[Tensor, "b 7 m"]:
        """Stretches of a quarter of each text, each half over the next, at least a token long: 7 of them, in order."""
        if view.shape[1] < 8:
            raise UserError(f"views of {view.shape[1]} tokens are too short to cut into pieces; give 8 or more.")
        length = (view != 0).sum(dim=1)[:, None]
        k = torch.arange(PIECES, device=view.device)
        start = k * length // (PIECES + 1)
        end = torch.maximum((k + 2) * length // (PIECES + 1), start + 1)
        place = start[..., None] + torch.arange(-(-view.shape[1] // 4) + 1, device=view.device)
        found = view.gather(1, place.clamp(max=view.shape[1] - 1).flatten(1)).view(place.shape)
        return torch.where(place < end[..., None], found, torch.zeros_like(found))

    # Checks ---------------------------------------------------------------------------------------------------------

    def _need_tokens(self) -> None:
        if not self.has_tokens:
            raise TypeError(f"{self.spec['name']} has no tokens. Choose a transformer, such as bert-tiny.")

    def _check(self, view: Tensor) -> None:
        if view.ndim != 2:
            advice = " It looks like one text: add the batch axis with x[None]." if view.ndim == 1 else ""
            raise UserError(f"got tokens of shape {list(view.shape)}; accepted is a batch [b, n].{advice}")
        if view.is_floating_point() or view.dtype == torch.bool or view.is_complex():
            raise UserError(
                f"got tokens of {view.dtype}; accepted are whole numbers (int32), 0 where there is no text."
            )
        if torch.compiler.is_compiling() or isinstance(view, FakeTensor):
            return
        longest = self.spec["longest"]
        if longest and view.shape[1] > longest:
            raise UserError(
                f"got texts of {view.shape[1]} tokens; {self.spec['name']} takes up to {longest}. Cut them."
            )
        if not view.numel() or (self.looked and not view.is_cpu):
            return
        self.looked = True
        low, high = (int(value) for value in view.aminmax())
        if low < 0 or high >= self.vocabulary:
            raise UserError(
                f"got tokens from {low} to {high}; this encoder knows 0 to {self.vocabulary - 1}. They must come from "
                "its own tokenizer."
            )


def _check_rows(what: str, given: Tensor, view: Tensor, any_length: bool = False) -> None:
    fits = given.ndim == 2 and len(given) == len(view) and (any_length or given.shape == view.shape)
    if not fits:
        raise UserError(
            f"{what} has shape {list(given.shape)}; the view has {list(view.shape)}: one row for each text."
        )


# Making, saving, loading ---------------------------------------------------------------------------------------------


def make_encoder(name: str, size: int, stats: Any, weights: str | None = None) -> TextEncoder:
    """A new encoder for texts of up to `size` tokens of the tokenizer in `stats`.

    `name`: bert-tiny, -mini, -small, -medium, -base; conv-tiny, -mini, -small; bag-tiny, -mini, -small, -base;
    NAME@0.5 of half the width; bert-NAME:class with a class token as the vector; a local folder with config.json and
    model.safetensors of `transformers`, whose tokenizer must be given too (--reading.tokenizer);
    "package.module:factory" for a network of the user's own, called without arguments. Nothing is downloaded.
    `weights` is a local .safetensors, such as another run's encoder.safetensors. Other weights are drawn from torch's
    global generator.
    """
    if "/" in name or Path(name).expanduser().is_dir():
        return _local(name, size, stats, weights)
    if ":" in name and not name.endswith(":class"):
        return _fresh(encoders.own_network(name), "own", name, size, stats, weights, 0)
    kind, net, factor, pool = resolve(name)
    trunk = made(kind, net, factor, stats.vocabulary, size + (pool == "class"))
    return _fresh(trunk, kind, name, size, stats, weights, size if kind == "bert" else 0, pool)


def own_encoder(module: nn.Module, size: int, stats: Any, weights: str | None = None) -> TextEncoder:
    """An encoder around a module that maps tokens, int64 [b n] filled up with 0, to [b d] or [b n d]."""
    return _fresh(module, "own", type(module).__qualname__, size, stats, weights, 0)


def build_encoder(spec: dict[str, Any], module: nn.Module | None = None) -> TextEncoder:
    """The encoder that `spec` describes, weights not loaded. `module` is needed where an own one was given so."""
    try:
        plan = Spec.model_validate(spec)
    except ValidationError as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"this is not the description of a text encoder: {reason}") from None
    trunk = encoders.rebuilt(plan.name, plan.library == "own", module, lambda: _named(plan))
    dim = _width(trunk, plan.library, plan.size, plan.name)
    if dim != plan.dim:
        raise UserError(
            f"the encoder was saved with width {plan.dim}, but {plan.name} has {dim}. Use the same network."
        )
    return TextEncoder(trunk, dict(spec))


def _named(plan: Spec) -> nn.Module:
    """The network of a spec that is no own one."""
    if plan.library == "local":
        return from_saved(plan.config or {})
    kind, net, factor, pool = resolve(plan.name)
    return made(kind, net, factor, plan.vocabulary, plan.longest + (pool == "class"))


def made(kind: str, net: str, factor: float, vocabulary: int, longest: int) -> nn.Module:
    """The network that `resolve` tells, its weights random; `longest` is the places of a transformer."""
    if kind == "bert":
        return bert(net, factor, vocabulary, longest)
    return convolutions(net, factor, vocabulary) if kind == "conv" else bag(net, factor, vocabulary)


def save_encoder(encoder: TextEncoder, folder: str | Path) -> None:
    """Write encoder.safetensors and encoder.json. A crash leaves the old files or the new ones, whole."""
    encoders.save(encoder, folder)


def load_encoder(folder: str | Path, module: nn.Module | None = None) -> TextEncoder:
    """Read what `save_encoder` wrote, in eval mode on the CPU. Outputs are equal to the bit.

    An encoder of library "own" imports and calls the factory that encoder.json names: such a folder must be trusted.
    Networks of `transformers` are made by that library's own code from their configuration.
    """
    return encoders.load(folder, lambda spec: build_encoder(spec, module))


def _local(name: str, size: int, stats: Any, weights: str | None) -> TextEncoder:
    if not stats.given:
        raise UserError(
            f"--encoder {name}: a network with weights needs the tokenizer that it was trained with: give "
            f"--reading.tokenizer {name}, which must hold a tokenizer.json."
        )
    trunk, config = local(name)
    known = trunk.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if known < stats.vocabulary:
        raise UserError(
            f"--encoder {name} knows {known:,} words, and the tokenizer has {stats.vocabulary:,}: they do not belong "
            "together. Give the tokenizer.json that came with the network."
        )
    longest = int(config.get("max_position_embeddings") or 0)
    if longest and size > longest:
        raise UserError(
            f"--encoder {name} takes texts of up to {longest} tokens, and views have {size}. Make them shorter."
        )
    encoder = _fresh(trunk, "local", name, size, stats, weights, longest, config=config)
    _heeds_its_mask(encoder)
    return encoder


def _heeds_its_mask(encoder: TextEncoder) -> None:
    """Raise UserError where padding has an influence on the vector."""
    word = encoder.vocabulary - 1
    alone, padded = torch.tensor([[word, word]]), torch.tensor([[word, word, 0, 0], [word] * 4])
    with torch.no_grad(), at_rest(encoder):
        moved = (encoder(alone)[0] - encoder(padded)[0]).abs().max()
    if not moved < 1e-3:
        raise UserError(
            f"{encoder.spec['name']} is a network on which padding has an influence. Take one of BERT's kind."
        )


def _fresh(
    trunk: nn.Module,
    library: str,
    name: str,
    size: int,
    stats: Any,
    weights: str | None,
    longest: int,
    pool: str = "mean",
    config: dict[str, Any] | None = None,
) -> TextEncoder:
    spec: dict[str, Any] = {
        "modality": "text",
        "library": library,
        "name": name,
        "size": size,
        "longest": longest,
        "vocabulary": stats.vocabulary,
        "dim": _width(trunk, library, size, name),
        "pool": pool,
        "attention": "both",
        "config": config,
        "stats": stats.model_dump(mode="json"),
    }
    encoder = TextEncoder(trunk, spec)
    if weights is not None:
        spec["weights"] = load_weights(encoder, stats.tokenizer, Path(weights))
    return encoder


def _width(trunk: nn.Module, library: str, size: int, name: str) -> int:
    if isinstance(trunk, PLAIN):
        return trunk.widths[-1]
    if library != "own":
        return int(trunk.config.hidden_size)  # type: ignore[union-attr, arg-type]
    device = next((tensor.device for tensor in trunk.parameters()), torch.device("cpu"))
    ids = torch.ones(2, size, dtype=torch.long, device=device)
    try:
        with torch.no_grad(), at_rest(trunk), torch.random.fork_rng(devices=[]):
            return pooled(trunk(ids), ids, name).shape[1]
    except (RuntimeError, TypeError, AssertionError, IndexError, ArithmeticError) as error:
        raise UserError(f"{name} cannot run on tokens [2, {size}]: {error}") from error

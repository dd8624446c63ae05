"""The few words every other module speaks.

Flow: source -> samples (worker half) -> views (device half) -> learner -> Step -> engine.

Shape letters, the same in the whole package:
    b = batch, d = embedding width, n = tokens or items, k = classes or neighbours, v = views,
    c = channels, h w = height and width in pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Generator, Tensor, nn

from selfsame.records import Method, Record, ViewPlan

__all__ = ["Draws", "Encoder", "Learner", "Look", "Method", "Modality", "Record", "Source", "Step", "ViewPlan", "mixed"]


def mixed(*numbers: int) -> int:
    """One well-spread 63-bit seed from several whole numbers (splitmix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state + (number & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class Draws:
    """The random numbers of one step: a function of (seed, step, place in the global batch) and nothing else.

    Each call draws for the whole global batch and keeps the rows asked for, so that the same item gets the same
    numbers however the batch is divided over processes, workers or micro-batches. Always on the CPU: a batch
    needs only a few numbers a row, and knowing them there spares the device a synchronisation.
    """

    def __init__(self, seed: int, step: int, total: int, rows: slice | None = None, stream: int = 0) -> None:
        self.total = total
        self.rows = slice(0, total) if rows is None else rows
        self.generator = Generator().manual_seed(mixed(seed, step, stream))

    def __len__(self) -> int:
        return len(range(*self.rows.indices(self.total)))

    def uniform(self, k: int) -> Float[Tensor, "b k"]:
        """k numbers in [0, 1) for each row. Every call gives new ones."""
        return torch.rand(self.total, k, generator=self.generator)[self.rows]

    def normal(self, k: int) -> Float[Tensor, "b k"]:
        """k standard normal numbers for each row."""
        return torch.randn(self.total, k, generator=self.generator)[self.rows]

    def order(self, k: int) -> Tensor:
        """A random order of 0..k-1 for each row: long [b k]."""
        return self.uniform(k).argsort(dim=1)


@dataclass(frozen=True)
class Step:
    """What one forward pass hands to the engine.

    The health check reads a log named `spread`, `nn.diagnose.spread` of the vectors that the loss compares: methods
    that compare vectors should log it, so that a collapse behind the encoder is seen.
    """

    loss: Float[Tensor, ""]
    logs: dict[str, Tensor] = field(default_factory=dict)  # scalars, kept on the device until they are logged


WIDEST = 512  # channels of the last stage of a residual net of the usual width, without its bottleneck


class Encoder(nn.Module):
    """Maps one view to one vector: [b ...] -> [b d]. Owns its input normalisation, so it cannot be fed wrongly."""

    dim: int  # d
    spec: dict[str, Any]  # JSON: all that is needed to build it again before its weights are loaded
    limits: ClassVar[tuple[float, float] | None] = None  # the least and the greatest value of a view, where it has such

    @property
    def called(self) -> str:
        """The name of its network as people give it, with its width where that is not the usual: resnet18@0.25."""
        options = self.spec.get("options") or {}
        stages = options.get("channels")
        width = stages[-1] / WIDEST if isinstance(stages, list) and stages else options.get("width", 1)
        return f"{self.spec.get('name')}@{width:.3g}" if width != 1 else str(self.spec.get("name"))

    @property
    def has_tokens(self) -> bool:
        """Whether it is a transformer, so that `tokens` works."""
        return False

    @property
    def has_maps(self) -> bool:
        """Whether `maps` works."""
        return False

    @property
    def has_pieces(self) -> bool:
        """Whether `pieces` works."""
        return False

    @property
    def has_steps(self) -> bool:
        """Whether `steps` works."""
        return False

    @property
    def piece_axes(self) -> int:
        """How many axes the grid of its pieces has: 2 of a picture, 1 of a sequence."""
        return 2

    @property
    def embedding(self) -> nn.Module | None:
        """What makes tokens of the parts of a view, before the first block; None where there are no tokens."""
        return None

    def maps(self, view: Tensor) -> list[Tensor]:
        """Dense features [b c ...], fine to coarse, one a stage. TypeError where the network has none."""
        raise TypeError(f"{type(self).__name__} has no maps")

    @property
    def map_widths(self) -> tuple[int, ...]:
        """The channels of each of `maps`. TypeError where the network has none."""
        raise TypeError(f"{type(self).__name__} has no maps")

    def with_maps(self, view: Tensor) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        """The vector and the maps; in one pass where the encoder can."""
        return self(view), self.maps(view)

    def use_group_norm(self) -> None:
        """Replace batch norms by group norms with weight standardisation, for good."""
        raise TypeError(f"{type(self).__name__} cannot change its norms")

    def tokens(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: "Hidden | None" = None
    ) -> Float[Tensor, "b n d"]:
        """Token features after the last block, without the class token.

        `keep` (long [b m]) names the patches that enter the first block, in the order wanted: n is then m.
        `hide` puts one vector in the place of some patches, before positions are added.
        """
        return self.both(view, keep, hide)[1]

    def both(
        self, view: Tensor, keep: Int[Tensor, "b m"] | None = None, hide: "Hidden | None" = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b n d"]]:
        """The vector (what `forward` gives of such a view) and the tokens, in one pass."""
        raise TypeError(f"{type(self).__name__} has no tokens")

    def last_layers(self, view: Tensor, last: int) -> list[Float[Tensor, "b n d"]]:
        """The tokens, without the class token, as the `last` last blocks give them, first to last; not normalised."""
        raise TypeError(f"{type(self).__name__} has no tokens")

    def average_tokens(self) -> None:
        """Make the mean of the tokens the vector, for good, whatever it was.

        For methods whose loss is on tokens alone: a class token would learn nothing.
        """
        raise TypeError(f"{type(self).__name__} has no tokens")

    def grid(self, view: Tensor) -> tuple[int, ...]:
        """How the tokens of a view lie: (rows, columns) of an image, (places,) of a sequence; their product is n."""
        raise TypeError(f"{type(self).__name__} has no tokens")

    def steps(self, view: Tensor) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Features along a sequence, and which of them lie between the first value of the view and its last.

        Full views of an item may lie on one time axis: places of the same number are then of the same time.
        """
        raise TypeError(f"{type(self).__name__} has no steps")

    @property
    def has_words(self) -> bool:
        """Whether views are numbers of words [b n], 0 where there is none, and `word_tokens` works."""
        return False

    @property
    def vocabulary(self) -> int:
        """The numbers that words have, 0 too. TypeError where there are no words."""
        raise TypeError(f"{type(self).__name__} has no words")

    @property
    def word_vectors(self) -> Float[Tensor, "v d"]:
        """What stands for each word before the first block: a parameter, to which a head may be tied."""
        raise TypeError(f"{type(self).__name__} has no words")

    def word_places(self, view: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
        """Where words stand, and neither padding nor marks."""
        raise TypeError(f"{type(self).__name__} has no words")

    def word_tokens(self, view: Int[Tensor, "b n"], hide: "Hidden | None" = None) -> Float[Tensor, "b n d"]:
        """Token features after the last block at each place itself; `hide.where` names places of the view."""
        raise TypeError(f"{type(self).__name__} has no words")

    def use_causal(self) -> None:
        """Let no token see those behind it, for good; the vector is then the mean of the tokens."""
        raise TypeError(f"{type(self).__name__} has no words")

    def pieces(self, view: Tensor) -> Tensor:
        """Overlapping pieces of a view, each a view itself: [b *grid ...], as [b 7 7 c h w] of an image."""
        raise TypeError(f"{type(self).__name__} has no pieces of a view")


@dataclass(frozen=True)
class Hidden:
    """Tokens that a token network is not shown."""

    where: Bool[Tensor, "b n"]
    stand_in: Float[Tensor, "d"]  # put in their place, mostly a parameter of the learner


Look = Iterable[tuple[list[Tensor], Int[Tensor, "b"]]]  # of a survey: ([plain view], which items) by the batch


class Learner(nn.Module):
    """A method at work: an encoder plus whatever the method adds to train it."""

    encoder: Encoder  # what is kept after training: saved, probed, exported
    by_item: ClassVar[bool] = False
    """whether `forward` takes, after the views, which item each row is: long [b], 0 .. items - 1"""
    steady: ClassVar[tuple[str, ...]] = ()
    """first parts of the names of parameters whose learning rate stays at its peak"""
    shares: Mapping[str, float] = {}
    """names of parameters that learn at a share of the learning rate; it is the same mapping at every start"""

    def forward(self, views: list[Tensor]) -> Step:
        """Score one batch. Named `forward` so that DDP and torch.compile see it.

        What it keeps for later steps (a queue, a centre, a bank) it keeps in buffers, equal on all processes.
        """
        raise NotImplementedError

    def before_update(self, progress: float) -> None:
        """Change what gradients there are, or drop some (`p.grad = None`). Called once an optimiser step, before it."""

    def surveys(self, number: int) -> bool:
        """Whether `survey` is to be called at the first step that begins in pass `number` over the data, from 0."""
        return False

    def survey(self, look: Look) -> None:
        """See every item once as it is: batches of ([plain view], which items), this process's share of all.

        They come mixed. All processes get as many rows, so the last batch is filled up with those that came first. What
        is not looked at is not read. Called in train mode without gradients; what is random is seeded by buffers.
        """

    def after_step(self, progress: float) -> None:
        """Move what gradients do not move. Called once an optimiser step; `progress` is (steps done) / (all steps),
        counted before this step, so it starts at 0."""


class Fingerprint(NamedTuple):
    """What tells copies of an item."""

    content: bytes
    """the item as it lies at rest: exact copies are equal in it"""
    stored: int
    """bytes at rest"""
    resolution: int
    """how much of it there is, as pixels: of copies the one with most is the best"""
    codes: tuple[int, int] | None
    """perceptual hashes of the item and of its mirror image, 64 bits each; None where there is nothing to tell it by"""


@runtime_checkable
class Source(Protocol):
    """Items at rest, read by number. Nothing is random here."""

    def __len__(self) -> int: ...
    def name(self, i: int) -> str:
        """Path or id, unique in the source."""
        ...

    def read(self, i: int) -> Any:
        """The decoded item. Raises UnreadableItem with the reason."""
        ...

    def stored(self, i: int) -> int:
        """Bytes of the item at rest. Raises UnreadableItem."""
        ...

    def fit(self, stats: Any) -> None:
        """From now on every item comes in the form of these statistics."""
        ...

    @property
    def array(self) -> np.ndarray | None:
        """All items as one array [n ...], where they lie in memory as one; None where each is read and decoded."""
        ...

    noted: Any
    """what `measure` has noted on it; one process measures, the others are handed this"""

    @property
    def looks(self) -> int:
        """How many items are looked at when it is opened: all, or of more than these as many."""
        ...

    @property
    def blocks(self) -> np.ndarray | None:
        """[k] the first items of runs that can only be read together; None where each item is read by itself."""
        ...

    @property
    def window(self) -> int:
        """How many such runs a process holds at once."""
        ...

    @property
    def left_out(self) -> str:
        """The files beside the items that are none, in words; empty where there are none."""
        ...

    @property
    def labels(self) -> list[str] | None:
        """One label an item (unreadable: errors.NO_LABEL), or None where there are none. Never used in training."""
        ...


@runtime_checkable
class Modality(Protocol):
    """What a folder of `modalities/` exposes; the package itself is the object.

    Its `__init__` loads names when they are used (`lazy.lazily`): asking what reads a path must not load all encoders.
    """

    name: str
    Views: ClassVar[type[Record]]  # the strengths of its views
    Stats: ClassVar[type[Record]]  # what is measured from the data and saved with the encoder
    Reading: ClassVar[type[Record]]  # how items are read: the flags `--reading.x`; all fields have defaults

    def reads(self, path: str) -> int:
        """How many of the first items at `path` look like its own, 0 for none. Quick; never raises."""
        ...

    def open_source(self, path: str, labels: str | None = None, reading: Any = None) -> Source:
        """List the items. Raises UserError where there are none."""
        ...

    def measure(self, source: Source, seed: int = 0) -> tuple[Record, dict[int, str]]:
        """Statistics of a sample of the items, and the unreadable ones {item: reason} found on the way."""
        ...

    def recipe(self, name: str, size: int, stats: Any) -> Record:
        """The named strengths, "auto" to choose by size, fitted to the data.

        "weak" is always there. Raises UserError on unknown names.
        """
        ...

    def sample(self, source: Source, items: Sequence[int], plan: ViewPlan, views: Any, draws: Draws) -> list[Tensor]:
        """Worker half: read, decode and cut; one small tensor [b ...] a view, of integers where it can be."""
        ...

    def make_views(self, samples: list[Tensor], plan: ViewPlan, views: Any, stats: Any, draws: Draws) -> list[Tensor]:
        """Device half: the random transformation of each sample, batched, on the device the samples are on."""
        ...

    def default_size(self, stats: Any, large: bool) -> int:
        """Size of a view where the user names none; `large` on a GPU, which can afford more."""
        ...

    def size_told(self, size: int, stats: Any) -> str:
        """The size in words: 224 px, 1.5 s, 64 tokens."""
        ...

    def default_encoder(self, size: int, large: bool) -> str:
        """Name for `make_encoder` where the user gives none."""
        ...

    def make_encoder(self, name: str, size: int, stats: Any, weights: str | None = None) -> Encoder:
        """A new encoder by name, its weights random or from a local file. Raises UserError with the nearest name."""
        ...

    def own_encoder(self, module: nn.Module, size: int, stats: Any, weights: str | None = None) -> Encoder:
        """An encoder around the user's own module. Raises UserError where the module gives no vectors."""
        ...

    def build_encoder(self, spec: dict[str, Any]) -> Encoder:
        """The encoder that `spec` describes, weights not loaded."""
        ...

    def save_encoder(self, encoder: Any, folder: str | Path) -> None:
        """Write encoder.safetensors and encoder.json, each whole or not at all."""
        ...

    def load_encoder(self, folder: str | Path, module: nn.Module | None = None) -> Encoder:
        """What `save_encoder` wrote, in eval mode, with the same outputs to the bit; `module` for an own encoder.

        Raises UserError where files are missing or damaged, or do not fit.
        """
        ...

    def export(self, encoder: Any, to: str, out: str | Path, **options: Any) -> dict[str, Any]:
        """Write the encoder for the library `to`, and compare what it gives there. Raises UserError where it cannot.

        `options` are those of `storage.wanted.Wanted`. Returns at least `files` (paths), `snippet` (the Python that
        loads them) and `difference` (of the outputs; None where that library is not installed, and `compared` says so).
        """
        ...

    def picture(self, source: Any, i: int, side: int = 256) -> Image.Image:
        """An item drawn for a person to see, at most `side` pixels. Raises UnreadableItem."""
        ...

    def fragment(self, source: Any, i: int) -> str:
        """HTML that shows an item better than its picture does, as a text or a player; "" where the picture is best."""
        ...

    def contact_sheet(
        self, source: Any, items: Sequence[int], views: Sequence[Sequence[Tensor]], names: Sequence[str]
    ) -> Image.Image | str:
        """Each item beside its views, drawn, or as plain text where items are words and numbers."""
        ...

    raw_name: str  # what `raw_vectors` gives, in words

    def raw_vectors(self, parts: Sequence[tuple[Any, Sequence[int]]], stats: Any) -> list[Float[Tensor, "n d"]]:
        """The trivial feature of the kind, for the items of each (source, items): what an encoder must be better than.

        What is fitted, as a vocabulary, is fitted on the first part alone.
        """
        ...


class FurtherSource(Protocol):
    """What a source may offer beside; jobs ask whether it does."""

    @property
    def roles(self) -> list[tuple[str, str, str]]:
        """What became of the columns of a table, for the plan: (what they are, their names shortened, a remark)."""
        ...


class FurtherStats(Protocol):
    """What the statistics may offer beside; jobs ask whether they do."""

    @property
    def summary(self) -> str:
        """What was measured, in a line of the plan."""
        ...

    @property
    def brief(self) -> str:
        """The same for data whose columns have lines of their own: without them."""
        ...

    @property
    def cautions(self) -> list[str]:
        """What of the data a person should know before the run begins, each a sentence or two."""
        ...


class Further(Protocol):
    """What a modality may offer beside; jobs ask whether it does."""

    def network_names(self) -> list[str]:
        """What `make_encoder` knows by name, so that the network of another kind of data can be told as such."""
        ...

    def encoder_for(self, needs: Sequence[str], size: int, large: bool) -> tuple[str, str]:
        """`default_encoder` for a method that needs these of it (`Method.needs`), and in words why, or ""."""
        ...

    CachePlan: ClassVar[type[Record]]  # what `plan_cache` gives

    def plan_cache(self, source: Any, items: Any, views: Any, most: int | None) -> Any:
        """What of the items (long [m], ascending) to keep decoded on disk, in at most `most` bytes; None for nothing.

        A record with `bytes` and `summary`. After `measure`; None for `most` leaves it to the machine.
        """
        ...

    def cached(self, source: Any, items: Any, plan: Any) -> Any:
        """The source, reading from and filling the cache that was planned; `sync()` forces it to disk."""
        ...

    def fingerprint(self, source: Any, i: int) -> Fingerprint:
        """What tells copies of an item without an encoder, for `duplicates`. Raises UnreadableItem."""
        ...

    def reading_for(self, reading: Record, path: str) -> Record:
        """Of how an encoder's items were read, what applies to another path: a file of lines has no columns."""
        ...

    def compile_views(self, yes: bool) -> None:
        """Whether `make_views` of this process is compiled on a GPU from here on: for runs that are."""
        ...

    raw_tells_copies: bool
    """whether `raw_vectors` find near copies well enough to be used unasked"""

    def timed_sample(
        self, source: Any, items: Sequence[int], plan: ViewPlan, views: Any, draws: Draws
    ) -> dict[str, float]:
        """Seconds that `sample` takes for these items, by part, in the order of the parts, for `profile`."""
        ...

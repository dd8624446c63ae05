"""Settings as data: frozen, checked, printable records. Imports no torch, so that `--help` is quick.

A record's fields are the flags of the command line, the keys of a YAML file, the arguments in Python and the
content of job.json: there is no second list. A misspelt key is an error in all four.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from selfsame.types import Encoder, Learner


class Record(BaseModel):
    """Base of all settings. The string under a field is its documentation, shown by --help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def changed(self, **values: Any) -> Self:
        """A checked copy with some fields replaced. Unlike `model_copy`, wrong values are refused."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate({**given, **values})


def ordered(ends: tuple[float, float]) -> tuple[float, float]:
    """Both ends of a range, the smaller one first. Raises ValueError."""
    if ends[0] > ends[1]:
        raise ValueError(f"the range {ends[0]:g} to {ends[1]:g} is empty: give the smaller number first")
    return ends


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(ordered)]
"""a range of shares, drawn from uniformly"""


class ViewPlan(Record):
    """How many views of an item a method asks for; what a view looks like is the modality's business.

    The views reach the learner as one list in this order: full, part, plain.
    """

    full: int = 2
    """random views that keep most of the item (image: large crop; audio: long window)"""
    part: int = 0
    """random views that keep a small piece (multi-crop)"""
    plain: int = 0
    """the item untransformed, only brought to size"""


SHORT = 20_000  # steps; a choice, measured at 600 to 3,000 (docs/numbers.md)


class Budget(Record):
    """What a run can spend: the ground for defaults that depend on it."""

    items: int
    """items to learn from"""
    batch: int
    """items in one step, over all processes"""
    steps: int
    """optimiser steps of the whole run"""
    dim: int
    """width of the encoder's vector"""
    cuts: int = 1
    """parts of a batch that pass the network one by one or on different processes: processes times micro-batches"""

    micro: int = 1
    """micro-batches of a step: batch statistics are those of one, over all processes"""
    piece_axes: int = 2
    """axes of the grid of the encoder's pieces: 2 of a picture, 1 of a sequence"""

    @property
    def rows(self) -> int:
        """Items whose statistics are taken together."""
        return self.batch // self.micro

    @property
    def short(self) -> bool:
        """Whether a method must get going soon: then whitening helps, and part views cost too many steps."""
        return self.steps < SHORT

    @property
    def passes(self) -> float:
        """How often each item is seen."""
        return self.steps * self.batch / self.items


def more_than_items(budget: Budget, count: int, groups: str, flag: str, more: str = "", each: int = 10) -> list[str]:
    """One line where there are more groups (prototypes, clusters, words) than items to be sorted into them, or none.

    `more`: what else there is to do, or to know. `each`: items that a group has where as few are chosen as it says.
    """
    if count <= budget.items:
        return []
    return [
        f"{count} {groups} are more than the {budget.items} items that are sorted into them: lower --method.{flag} to "
        f"{max(2, budget.items // each)} or so{more}."
    ]


class Preset(Record):
    """Settings that go together: a paper's own, or those that a recipe found good for a kind of data."""

    source: str
    """where they stand: paper with section, or repository and file"""
    method: dict[str, Any] = {}
    """settings of the method that differ from its defaults"""
    training: dict[str, Any] = {}
    """fields of `pretrain`: epochs, batch_size, optimizer, lr, ..., encoder, views"""
    published: str = ""
    """what was reached with them there, with protocol; as text, for it is another's claim"""
    derived: bool = False
    """whether what it does not name is derived from data and length, as without a preset, and not a paper's default"""


QUICK = Preset(
    source="our own, for short runs; docs/methods.md has what came of it",
    training={"encoder": "resnet18@0.25", "size": 32, "epochs": 4.2},
    derived=True,
)
"""A first try in minutes on a processor: of 10,000 small images about 40,000 samples. All else is derived."""
QUICK_TOKENS = QUICK.changed(training={**QUICK.training, "encoder": "vit_tiny_patch4_32@128x6"})
"""The same for methods that need a vision transformer."""
GPU = Preset(
    source="our own, for short runs; docs/methods.md has what came of it",
    training={"encoder": "resnet18", "size": 32, "epochs": 40, "batch_size": 256},
    derived=True,
)
"""Small images on a GPU, minutes there: of 10,000 images about 1,500 steps. All else is derived."""


class Method(Record):
    """A method's settings. A file of `methods/` holds one subclass; its fields are the flags `--method.x`."""

    name: ClassVar[str] = ""  # the file's name; set by `methods.load`
    needs: ClassVar[tuple[str, ...]] = ()  # of the encoder: "tokens", "maps", "pieces", "steps", "words"
    good_for: ClassVar[str] = ""  # when to choose it, in one line
    presets: ClassVar[dict[str, Preset]] = {}  # by name: "imagenet", "cifar", ...

    @property
    def plan(self) -> ViewPlan:
        """The views it needs, which may depend on the settings."""
        return ViewPlan()

    def fitted(self, budget: Budget) -> Self:
        """The same method with the fields the user left alone fitted to the budget. By default nothing changes."""
        return self

    def pace(self, budget: Budget) -> float:
        """Factor on the learning rate that is derived, where the method learns better at another one; by default 1."""
        return 1.0

    def cautions(self) -> list[str]:
        """Settings that are known to end badly, each with its reason; empty when there are none."""
        return []

    @classmethod
    def known_presets(cls) -> dict[str, Preset]:
        """Ours, `quick` and where a residual net will do `gpu`, and its own, which are those of papers."""
        if "words" in cls.needs:
            return cls.presets
        ours = {"quick": QUICK_TOKENS} if "tokens" in cls.needs else {"quick": QUICK, "gpu": GPU}
        return {**ours, **cls.presets}

    def misfits(self, budget: Budget) -> list[str]:
        """What does not go together in a run of this size, each with its cure; such a run is refused before it begins.

        Called on the fitted method.
        """
        return []

    def doubts(self, budget: Budget) -> list[str]:
        """What helps little in a run of this size, each with its reason; it is said, and the run begins all the same.

        Called on the fitted method.
        """
        return []

    def build(self, encoder: "Encoder", items: int = 0) -> "Learner":
        """The method at work on an encoder. Draws weights from torch's global generator.

        `items`: how many it will learn from, for methods that keep something of each.
        """
        raise NotImplementedError

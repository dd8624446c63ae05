"""How strong views are: the strengths of a pipeline, and the named recipes.

What the steps do stands in `views` and `steps`; each recipe says where its numbers come from and what it leaves out.
Raises UserError on an unknown recipe.
"""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from selfsame.errors import unknown
from selfsame.modalities.audio.reading import Stats
from selfsame.records import Probability, Record, Shares, ViewPlan, ordered

__all__ = ["View", "Views", "recipe", "recipes"]

BLOCK = 16  # frames: views are whole multiples of it, so that the patches of transformers fit
LONGEST = 8  # plain views are at most so many times as long as full ones


Decibels = Annotated[float, Field(ge=-120, le=120)]
Speeds = Annotated[tuple[Annotated[float, Field(ge=0.25, le=4)], Annotated[float, Field(ge=0.25, le=4)]],
                   AfterValidator(ordered)]  # fmt: skip
Range = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(ordered)]
Positive = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(ordered)]
Levels = Annotated[tuple[Decibels, Decibels], AfterValidator(ordered)]


class View(Record):
    """Strengths of one pipeline, in the order of its steps. Probabilities and shares are in [0, 1]."""

    keep: Shares = (1.0, 1.0)
    """share of what a view shows of its item that is heard, one stretch at a random place; the rest is silence"""
    speed: Speeds = (1.0, 1.0)
    """how fast it is played, log-uniform; pitch goes with it"""
    polarity: Probability = 0.0
    """probability of turning the waveform upside down; a spectrogram shows nothing of it"""
    noise: Probability = 0.0
    """probability of added noise"""
    noise_snr: Levels = (5.0, 30.0)
    """dB by which the sound is louder than the noise, uniform"""
    noise_colour: Range = (0.0, 2.0)
    """the noise's power falls as this power of frequency, uniform: 0 white, 1 pink, 2 brown"""
    low_pass: Probability = 0.0
    """probability of taking away what lies above a frequency"""
    low_pass_at: Shares = (0.15, 0.75)
    """that frequency as a share of half the rate, log-uniform"""
    high_pass: Probability = 0.0
    """probability of taking away what lies below a frequency"""
    high_pass_at: Shares = (0.02, 0.1)
    """that frequency as a share of half the rate, log-uniform"""
    band: Probability = 0.0
    """probability of keeping one band of frequencies only"""
    band_octaves: Positive = (1.5, 4.0)
    """its width, uniform; its place is log-uniform where it fits"""
    equalize: Probability = 0.0
    """probability of raising and lowering parts of the spectrum, as an equaliser does"""
    equalize_db: Annotated[float, Field(ge=0, le=60)] = 6.0
    """most by which a part is raised or lowered, uniform in dB"""
    gain: Probability = 1.0
    """probability of making it louder or softer"""
    gain_db: Levels = (-6.0, 6.0)
    """by how much, uniform in dB"""
    mix: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """largest share of the power that comes from another item, uniform from 0; 0: no mixing"""
    resize: Probability = 0.0
    """probability of cutting a random piece out of the spectrogram and stretching it to the view's size"""
    resize_band: Positive = (0.6, 1.5)
    """height of that piece over that of the spectrogram, uniform; it is never higher than that"""
    resize_time: Positive = (0.6, 1.5)
    """length of that piece over that of the view, uniform; at most 1.5: beyond the ends is the mean level"""
    resize_place: Literal["anywhere", "middle"] = "anywhere"
    """where that piece lies in time and what is beyond its ends: anywhere and the mean level, or in the middle and the
    last frame again, so that short sounds stay in it and nothing is added"""
    fade: Probability = 0.0
    """probability of a level that changes evenly from the first frame to the last"""
    fade_db: Annotated[float, Field(ge=0, le=60)] = 6.0
    """most by which the level is changed at either end, uniform in dB"""


class Views(Record):
    """Strengths of all views of a recording."""

    size: Annotated[int, Field(ge=1)]
    """length of full views in samples"""
    domain: Literal["spectrogram", "wave"] = "spectrogram"
    """what views are: log-mel spectrograms, or waveforms, which encoders on STFT or raw waves need"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View()
    """the second, fourth, ... full view"""
    part: View = View()
    """short views"""
    part_size: Annotated[int, Field(ge=1)]
    """length of part views in samples"""
    plain_size: Annotated[int, Field(ge=1)]
    """length of plain views in samples: the middle of longer items"""
    reach: Annotated[float, Field(ge=0)] = 1.0
    """how far from the first view the others of an item may lie, in lengths of a full view; 0: at the same place. Items
    shorter than a view lie anywhere in each"""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.domain == "wave" and any(kind.resize for kind in (self.one, self.two, self.part)):
            raise ValueError(
                "a waveform cannot be resized in time and frequency apart: use speed in its place and set resize to 0, "
                'or choose the domain "spectrogram"'
            )
        return self

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------


def made(
    size: int, stats: Stats, one: View, two: View | None = None, part: View | None = None, **more: object
) -> Views:
    """Views of `size` samples; the second pipeline is the first, and so is that of parts, unless given."""
    return Views.model_validate(
        {
            "size": size,
            "one": one,
            "two": two or one,
            "part": part or one,
            "part_size": part_size(size, stats),
            "plain_size": plain_size(size, stats),
            **more,
        }
    )


def byol_a(size: int, stats: Stats) -> Views:
    """BYOL-A (Niizuma et al. 2021, arXiv 2103.06695; v2: 2204.07402): mix-up, random resize crop, linear fade.

    All views of an item show the same place; shares of mix-up up to 0.4, sizes 0.6 to 1.5, a fade of one standard
    deviation of the spectrogram. Deviations: items shorter than a view lie anywhere in it, not always in its middle;
    partners come from all items, not from the last 2048 seen, so that a step does not depend on those before it; there
    is no normalisation by the batch after the views; mixing and fading keep the floor of the logarithm where it is.
    """
    return made(size, stats, spectrogram_view(stats), reach=0.0)


def spectrogram_view(stats: Stats, **changes: object) -> View:
    fade = min(60.0, round(4.343 * stats.std, 2))
    return View.model_validate({"gain": 0.0, "mix": 0.4, "resize": 1.0, "fade": 1.0, "fade_db": fade, **changes})


def speech(size: int, stats: Stats) -> Views:
    """For words whose speaker matters: BYOL-A's steps, with random places in time, channels (equaliser) and noise.

    Ours: the pieces cut out are higher than BYOL-A's (0.8 of the bands and more), so that voices stay apart. Not yet
    measured at length.
    """
    one = spectrogram_view(stats, resize_band=(0.8, 1.0), equalize=0.5, noise=0.3, gain=1.0)
    return made(size, stats, one, reach=0.5)


def words(size: int, stats: Stats) -> Views:
    """For what is said, whoever says it: pitch, formants, pace, room and noise differ between views. Ours.

    Short words are not cut, nothing is mixed or faded. Goes with `--reading.loudness same`, which takes away how loud a
    voice is.
    """
    one = spectrogram_view(
        stats, speed=(0.8, 1.25), resize_band=(0.85, 1.0), resize_time=(0.8, 1.3), resize_place="middle",
        equalize=1.0, equalize_db=8.0, noise=0.7, noise_snr=(5.0, 35.0), mix=0.0, fade=0.0,
    )  # fmt: skip
    return made(size, stats, one, reach=0.5)


def sounds(size: int, stats: Stats) -> Views:
    """For events and surroundings: BYOL-A's steps, random filters, noise; views up to one length apart. Ours."""
    filters = {"low_pass": 0.2, "high_pass": 0.2, "band": 0.1, "equalize": 0.3}
    return made(size, stats, spectrogram_view(stats, **filters, noise=0.2, gain=1.0), reach=1.0)


def music(size: int, stats: Stats) -> Views:
    """For pieces of music: views up to four lengths apart, equaliser and filters; pitch and tempo hardly move. Ours."""
    one = spectrogram_view(
        stats, mix=0.2, resize_band=(0.95, 1.0), resize_time=(0.9, 1.1), equalize=0.5, low_pass=0.2, gain=1.0
    )
    return made(size, stats, one, reach=4.0)


def weak(size: int, stats: Stats) -> Views:
    """A random place and nothing else."""
    return made(size, stats, View(gain=0.0))


def wave(size: int, stats: Stats) -> Views:
    """Waveforms, for encoders on raw waves and STFT: speed, polarity, noise, filters, gain, mixing, fade.

    The steps of the patent's list (random start and end, band, amplitude, filtering); speed stands for the resize
    crop, mixing is that of BYOL-A in amplitudes: powers add up on average, as sounds do in a room. Numbers are ours.
    """
    filters = {"low_pass": 0.2, "high_pass": 0.2, "band": 0.1, "equalize": 0.5}
    changed = {"speed": (0.85, 1.2), "polarity": 0.5, "noise": 0.3, "mix": 0.4, "fade": 0.5, "keep": (0.7, 1.0)}
    one = View.model_validate({**filters, **changed})
    return made(size, stats, one, domain="wave", reach=0.5)


RECIPES: dict[str, Callable[[int, Stats], Views]] = {
    known.__name__: known for known in (byol_a, speech, words, sounds, music, weak, wave)
}
AUTO = "byol_a"


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return ["auto", *RECIPES]


def recipe(name: str, size: int, stats: Stats) -> Views:
    """The named strengths for views of `size` samples; "auto" is `byol_a`. Raises UserError on others."""
    if name not in recipes():
        raise unknown("recipe of views", name, recipes())
    return RECIPES[AUTO if name == "auto" else name](size, stats)


def whole_blocks(samples: float, stats: Stats, least: int = 1) -> int:
    """The frames of so many samples, up to whole blocks, as samples."""
    blocks = max(least, -(-(1 + int(samples) // stats.hop) // BLOCK))
    return (BLOCK * blocks - 1) * stats.hop


def part_size(size: int, stats: Stats) -> int:
    """Half as many frames as a full view, in whole blocks."""
    return min(size, max(1, (1 + size // stats.hop) // (2 * BLOCK)) * BLOCK * stats.hop - stats.hop)


def plain_size(size: int, stats: Stats) -> int:
    """Nine in ten items whole, but no less than a full view and no more than LONGEST times that."""
    return min(max(size, whole_blocks(stats.seconds[2] * stats.rate, stats)), LONGEST * size)

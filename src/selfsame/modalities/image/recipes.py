"""How strong views are: the strengths of a pipeline, and the named recipes.

What the steps do, and how that differs from others' code, stands in `views` and `steps`; each recipe says where its
numbers come from and what it leaves out. Raises UserError on an unknown recipe.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from selfsame.errors import UserError, unknown
from selfsame.modalities.image.stats import Stats
from selfsame.records import Probability, Record, Shares, ViewPlan, ordered

__all__ = ["SMALL", "View", "Views", "recipe", "recipes"]

SMALL = 64  # pixels: up to this side "auto" is "small", and a plain view is the whole short side
MOST = 4096  # pixels of a side


Positive = Annotated[float, Field(gt=0)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
Pixels = Annotated[int, Field(ge=1, le=15)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]


class View(Record):
    """Strengths of one pipeline, in the order of its steps. Probabilities and shares are in [0, 1]."""

    area: Shares = (0.08, 1.0)
    """share of the image kept by the crop, uniform"""
    ratio: Range = (3 / 4, 4 / 3)
    """width / height of the crop, log-uniform"""
    flip: Probability = 0.5
    """probability of a mirror image"""
    vertical_flip: Probability = 0.0
    """probability of turning it upside down"""
    rotate: Probability = 0.0
    """probability of a rotation"""
    degrees: Annotated[tuple[Degrees, Degrees], AfterValidator(ordered)] = (-15.0, 15.0)
    """angle of the rotation, counter-clockwise"""
    jitter: Probability = 0.8
    """probability of the four colour changes that follow, in random order"""
    brightness: Annotated[float, Field(ge=0)] = 0.4
    """strength s: the factor is uniform in [max(0, 1 - s), 1 + s]"""
    contrast: Annotated[float, Field(ge=0)] = 0.4
    """strength, as for brightness"""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """strength, as for brightness; 3 channels only"""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """largest shift in turns, either way; 3 channels only"""
    gray: Probability = 0.2
    """probability of grayscale; 3 channels only"""
    blur: Probability = 1.0
    """probability of a Gaussian blur"""
    sigma: Range = (0.1, 2.0)
    """its standard deviation in pixels of the view"""
    box_blur: Probability = 0.0
    """probability of a mean filter"""
    box_radius: Annotated[tuple[Pixels, Pixels], AfterValidator(ordered)] = (1, 2)
    """its radius r in pixels of the view; it is 2 r + 1 wide"""
    sharpen: Probability = 0.0
    """probability of an unsharp mask"""
    sharpen_amount: Range = (0.5, 1.5)
    """its strength: the part of the detail under 1 pixel that is added"""
    solarize: Probability = 0.0
    """probability of inverting the values from 0.5 on"""
    cutout: Probability = 0.0
    """probability of setting a patch to one value"""
    cutout_area: Shares = (0.02, 0.2)
    """share of the view that the patch covers, uniform"""
    cutout_value: Probability | None = None
    """the value, 0 black to 1 white; random if not given"""
    background: Probability = 0.0
    """probability of another background behind what stands out, before all other steps"""
    background_fill: Literal["gray", "other"] = "gray"
    """one random gray, or the background of another item of the batch"""


class Views(Record):
    """Strengths of all views of an image."""

    size: Annotated[int, Field(ge=1)]
    """side of full and plain views in pixels"""
    one: View = View()
    """the first, third, ... full view"""
    two: View = View(blur=0.1, solarize=0.2)
    """the second, fourth, ... full view"""
    part: View = View(area=(0.05, 0.14), blur=0.5)
    """views of a small piece"""
    part_size: Annotated[int, Field(ge=1)] = 96
    """side of part views in pixels"""
    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """least share of the smaller crop that every full view has in common with the first"""

    def strengths(self, plan: ViewPlan) -> list[View]:
        """Those of the random views of a plan: full views alternate between one and two, then the parts."""
        return [self.two if k % 2 else self.one for k in range(plan.full)] + [self.part] * plan.part


# Recipes -------------------------------------------------------------------------------------------------------------

PIECES = (0.05, 0.14)  # area of part views; SwAV's
SMALL_PIECES = (0.1, 0.3)  # up to 64 pixels, where SwAV's would be 7 pixels wide; ours


def made(size: int, one: View, two: View | None = None, part: View | None = None) -> Views:
    """Views of `size` pixels; the second pipeline is the first, and parts are pieces of it, unless given."""
    part = part or one.changed(area=SMALL_PIECES if size <= SMALL else PIECES)
    return Views(size=size, one=one, two=two or one, part=part, part_size=part_side(size))


def photo(size: int) -> Views:
    """BYOL's two pipelines (Grill et al. 2020, arXiv 2006.07733, appendix B); part views as SwAV's, blurred as DINO's.

    Deviations: brightness is a factor, not an offset; contrast pivots on the mean luma, not on each channel's
    mean; the blur reflects at the border, and its kernel is cut at 3 sigma. Hue and clipping: `steps.colour_matrices`.
    """
    return made(size, View(), View(blur=0.1, solarize=0.2), View(area=PIECES, blur=0.5))


def small(size: int) -> Views:
    """BYOL's without blur, as solo-learn's asymmetric recipe for CIFAR. The area of part views is ours."""
    full = View(blur=0.0)
    return made(size, full, full.changed(solarize=0.2), full.changed(area=SMALL_PIECES))


def weak(size: int) -> Views:
    """Crop and mirror image only."""
    full = View(jitter=0.0, gray=0.0, blur=0.0)
    return made(size, full, part=full.changed(area=PIECES))


def crop(size: int) -> Views:
    """Crops of 0.3 to 1 and nothing else: I-JEPA (Assran et al. 2023, arXiv 2301.08243), which hides blocks itself."""
    return made(size, View(area=(0.3, 1.0), flip=0.0, jitter=0.0, gray=0.0, blur=0.0))


def moco(size: int) -> Views:
    """MoCo v1 and the memory bank (He et al. 2019, arXiv 1911.05722; Wu et al. 2018, 1805.01978): always jittered.

    No blur. Deviations: they make gray before they jitter colours, here it comes last, and gray stays gray either way;
    crops are resized bicubic, not bilinear.
    """
    return made(size, moco_view(jitter=1.0, hue=0.4, blur=0.0))


def moco2(size: int) -> Views:
    """MoCo v2 (Chen et al. 2020, arXiv 2003.04297) and SimSiam (2011.10566); crops are bicubic, not bilinear."""
    return made(size, moco_view())


def moco_view(**changes: float) -> View:
    strengths = {"area": (0.2, 1.0), "saturation": 0.4, "blur": 0.5, **changes}
    return View(**strengths)


def simclr(size: int) -> Views:
    """SimCLR with colours of strength 1 (Chen et al. 2020, arXiv 2002.05709, appendix A); parts are SwAV's."""
    return made(size, simclr_view(1.0))


def simclr_small(size: int) -> Views:
    """SimCLR for CIFAR (appendix B.9): colours of strength 0.5, no blur."""
    return made(size, simclr_view(0.5, blur=0.0))


def simclr_view(strength: float, **changes: Any) -> View:
    colours = dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength)
    return View(**{**colours, "hue": 0.2 * strength, "blur": 0.5, **changes})


def swav(size: int) -> Views:
    """SwAV's multi-crop (Caron et al. 2020, arXiv 2006.09882): full views of 0.14 to 1, parts of 0.05 to 0.14.

    Its colours are SimCLR's of strength 1.
    """
    return made(size, simclr_view(1.0, area=(0.14, 1.0)), part=simclr_view(1.0, area=PIECES))


def dino(size: int) -> Views:
    """DINO's multi-crop for vision transformers (Caron et al. 2021, arXiv 2104.14294): 0.4 to 1, parts of 0.05 to 0.4.

    For residual nets its authors take 0.14 to 1 and 0.05 to 0.14: --views.one.area 0.14 1 --views.two.area 0.14 1
    --views.part.area 0.05 0.14. Colours as BYOL's, with the blur and the solarisation of `photo`.
    """
    full = View(area=(0.4, 1.0))
    return made(size, full, full.changed(blur=0.1, solarize=0.2), View(area=(0.05, 0.4), blur=0.5))


def vicreg_small(size: int) -> Views:
    """VICReg for CIFAR, as solo-learn's (scripts/pretrain/cifar/vicreg.yaml): crops from 0.2, solarised at times."""
    return made(size, View(area=(0.2, 1.0), blur=0.0, solarize=0.1))


def weak_strong(size: int) -> Views:
    """A strong view, MoCo v2's, and a weak one, cropped and mirrored, as in SCE (Denize et al. 2021, arXiv 2111.14585).

    Full views are strong, weak, strong, ... Deviation: up to 64 pixels nothing is blurred; SCE blurs at 32 pixels too.
    """
    strong = moco_view(blur=0.0 if size <= SMALL else 0.5)
    return made(size, strong, View(area=(0.2, 1.0), jitter=0.0, gray=0.0, blur=0.0))


def exemplar(size: int) -> Views:
    """Exemplar-CNN's strong geometry and colour (Dosovitskiy et al. 2014, arXiv 1406.6909), as far as there are steps.

    Its scales of 0.7 to 1.4 are crops whose areas differ fourfold, which shift as well; rotations up to 20 degrees.
    Deviations: contrast is one factor, not one for each principal component; value and saturation are scaled, where it
    raises them to powers of 0.25 to 4 too. It starts from patches with strong gradients; here the item is the patch.
    The figures are from memory of the paper.
    """
    geometry = View(area=(0.25, 1.0), flip=0.0, rotate=1.0, degrees=(-20.0, 20.0), gray=0.0, blur=0.0)
    return made(size, geometry.changed(jitter=1.0, brightness=0.6, contrast=0.75, saturation=0.75, hue=0.1))


def histopathology(size: int) -> Views:
    """Tissue has no up and no left: Stacke et al. 2021, arXiv 2112.05760, for SimCLR on patches of slides.

    Mirrored both ways, turned, colours of strength 1 (stain is a nuisance and a clue: lower hue and saturation where
    slides are stained alike), no gray, no blur; crops from 0.2. Deviations: turned by any angle, not by quarters, and
    two crops share at least a quarter of the smaller one, for neighbouring tissue may be another kind.
    """
    turned = {"vertical_flip": 0.5, "rotate": 1.0, "degrees": (-180.0, 180.0)}
    full = simclr_view(1.0, area=(0.2, 1.0), gray=0.0, blur=0.0, **turned)
    return made(size, full).changed(overlap=0.25)


def surgical(size: int) -> Views:
    """Frames of operations: Ramesh et al. 2022, arXiv 2207.00449 (Cholec80): mild crops from 0.5, a patch erased.

    Deviation: in place of RandAugment (some of ten changes at magnitude 8) a rotation and a sharpening, each in a fifth
    of the views.
    """
    colours = View(saturation=0.4, hue=0.0, gray=0.0, blur=0.0)
    changed = {"rotate": 0.2, "degrees": (-24.0, 24.0), "sharpen": 0.2, "cutout": 0.8, "cutout_area": (0.02, 0.1)}
    return made(size, colours.changed(area=(0.5, 1.0), **changed))


KNOWN = (
    *(photo, small, weak, crop, moco, moco2, simclr, simclr_small, swav, dino),
    *(vicreg_small, weak_strong, exemplar, histopathology, surgical),
)
RECIPES: dict[str, Callable[[int], Views]] = {known.__name__: known for known in KNOWN}


def recipes() -> list[str]:
    """The names that `recipe` knows."""
    return ["auto", *RECIPES]


def recipe(name: str, size: int, stats: Stats) -> Views:
    """The named strengths for views of `size` pixels; "auto" is "photo" above 64 pixels, else "small".

    Data of other than 3 channels gets no saturation, hue and grayscale, so that what is shown is what is done.
    Raises UserError on unknown names, and on sizes that no image has.
    """
    if size > MOST:
        raise UserError(f"--size {size}: a view has at most {MOST} pixels a side. Give fewer.")
    if name not in recipes():
        raise unknown("recipe of views", name, recipes())
    if name == "auto":
        name = "photo" if size > SMALL else "small"
    views = RECIPES[name](size)
    if stats.channels == 3:
        return views
    plain = {key: getattr(views, key).changed(saturation=0.0, hue=0.0, gray=0.0) for key in ("one", "two", "part")}
    return views.changed(**plain)


def part_side(size: int) -> int:
    """96 pixels for 224, in proportion, as a whole number of 16-pixel patches; never more than `size`."""
    return min(size, max(16, round(size * 96 / 224 / 16) * 16))

"""What is chosen for images where the user chooses nothing."""

from selfsame.modalities.image.stats import Stats

SMALL = 64  # pixels: images up to this side are looked at whole, with the small-image recipe and stem


def default_size(stats: Stats, large: bool) -> int:
    """Side of a view: small images as they are; others their short side, at most 224 px on a GPU, 128 px on a CPU."""
    side = min(stats.height, stats.width)
    if side <= SMALL:
        return max(4, side)
    return max(SMALL, min(224 if large else 128, side // 32 * 32))


def size_told(size: int, stats: Stats) -> str:
    if size <= min(stats.height, stats.width):
        return f"{size} px"
    return f"{size} px, enlarged from {stats.width} x {stats.height}"


def default_encoder(size: int, large: bool) -> str:
    """On a GPU resnet50 for photos, as in the papers, and resnet18 for small images; on a CPU nets of half the width.

    A processor trains those several times as fast; resnet10t@0.5 learned photos within an hour (docs/numbers.md,
    clothing). For small images the half width is chosen for its speed alone.
    """
    if large:
        return "resnet50" if size > SMALL else "resnet18"
    return "resnet10t@0.5" if size > SMALL else "resnet18@0.5"


def network_names() -> list[str]:
    """Those of timm and torchvision."""
    import timm
    import torchvision

    models = torchvision.models.list_models(module=torchvision.models)
    return [*timm.list_models(), *models, *(f"torchvision/{model}" for model in models)]

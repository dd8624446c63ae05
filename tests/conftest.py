"""What several test files need: a tiny encoder, small pictures on disk, the shared data where it is."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from selfsame.errors import too_few_blocks
from selfsame.types import Encoder, Hidden

torch.set_num_threads(1)  # two on a busy machine make small operations many times slower
os.environ["SELFSAME_CACHE"] = tempfile.mkdtemp(prefix="selfsame-cache-")  # a test leaves nothing in the user's folder
atexit.register(shutil.rmtree, os.environ["SELFSAME_CACHE"], ignore_errors=True)
SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that look at what two processes did, or fork from one that has loaded torch, come first, one after the
    other: one worker of xdist gets them all, and starts each once."""
    items.sort(key=lambda item: [not hasattr(getattr(item, "module", None), name) for name in ("outcomes", "Forked")])


class Tiny(Encoder):
    """A convolution, a batch norm, a mean: [b 3 h w] -> [b 8]."""

    limits = (0.0, 1.0)

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.spec = {"modality": "image", "name": "tiny"}
        self.body = nn.Sequential(
            nn.Conv2d(3, dim, 3, stride=2), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3), nn.BatchNorm2d(dim)
        )

    has_maps = has_pieces = has_steps = True

    def forward(self, view: Tensor) -> Tensor:
        return self.body(view).mean((2, 3))

    @property
    def map_widths(self) -> tuple[int, ...]:
        return self.dim, self.dim

    def maps(self, view: Tensor) -> list[Tensor]:
        fine = self.body[:3](view)
        return [fine, self.body[3:](fine)]

    def steps(self, view: Tensor) -> tuple[Tensor, Tensor]:
        places = self.maps(view)[-1].flatten(2).transpose(1, 2)
        return places, torch.ones(places.shape[:2], dtype=torch.bool, device=view.device)

    def pieces(self, view: Tensor) -> Tensor:
        return view.unfold(2, 8, 4).unfold(3, 8, 4).permute(0, 2, 3, 1, 4, 5)

    def use_group_norm(self) -> None:
        from selfsame.nn.norm import use_group_norm

        use_group_norm(self.body, 1)  # with a channel each, the mean over the places would be a constant


class TinyTokens(Tiny):
    """Patches of 4 pixels, two layers that mix them, a mean: [b 3 h w] -> [b 8]."""

    has_tokens = True
    has_pieces = False

    def __init__(self, dim: int = 8) -> None:
        super().__init__(dim)
        self.body = nn.ModuleList([nn.Conv2d(3, dim, 4, stride=4), *(Mixing(dim) for _ in range(2))])
        self.places = nn.Parameter(0.1 * torch.randn(1, 64, dim))

    @property
    def embedding(self) -> nn.Module:
        return self.body[0]

    def forward(self, view: Tensor) -> Tensor:
        return self.both(view)[0]

    def both(self, view: Tensor, keep: Tensor | None = None, hide: Hidden | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.last_layers(view, len(self.body) - 1, keep, hide)[-1]
        return tokens.mean(1), tokens

    def last_layers(
        self, view: Tensor, last: int, keep: Tensor | None = None, hide: Hidden | None = None
    ) -> list[Tensor]:
        if last > 2:
            raise too_few_blocks(last, 2)
        x = self.body[0](view).flatten(2).transpose(1, 2)
        if hide is not None:
            x = torch.where(hide.where[..., None], hide.stand_in.to(x.dtype), x)
        x = x + self.places[:, : x.shape[1]]
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
        outputs = []
        for block in self.body[1:]:
            x = block(x)
            outputs.append(x)
        return outputs[-last:]

    def average_tokens(self) -> None:
        """It does."""

    def grid(self, view: Tensor) -> tuple[int, int]:
        return view.shape[2] // 4, view.shape[3] // 4

    @property
    def map_widths(self) -> tuple[int, ...]:
        return (self.dim,)

    def maps(self, view: Tensor) -> list[Tensor]:
        return [self.both(view)[1].transpose(1, 2).unflatten(2, self.grid(view))]


class TinyWords(Tiny):
    """Words of a vocabulary of 20, two layers that mix them, a mean: numbers [b n], 0 where there is none -> [b 8]."""

    has_tokens = has_words = True
    has_pieces = has_maps = False
    vocabulary = 20

    def __init__(self, dim: int = 8) -> None:
        super().__init__(dim)
        self.spec = {"modality": "text", "name": "tiny words"}
        self.body = nn.ModuleList([nn.Embedding(self.vocabulary, dim), *(Mixing(dim) for _ in range(2))])
        self.places = nn.Parameter(0.1 * torch.randn(1, 64, dim))

    @property
    def word_vectors(self) -> Tensor:
        return self.body[0].weight

    def word_places(self, view: Tensor) -> Tensor:
        return view != 0

    def word_tokens(self, view: Tensor, hide: Hidden | None = None) -> Tensor:
        x = self.body[0](view)
        if hide is not None:
            x = torch.where(hide.where[..., None], hide.stand_in.to(x.dtype), x)
        x = x + self.places[:, : x.shape[1]]
        for block in self.body[1:]:
            x = block(x)
        return x

    def forward(self, view: Tensor) -> Tensor:
        return self.word_tokens(view).mean(1)

    def average_tokens(self) -> None:
        """It does."""

    def use_causal(self) -> None:
        for block in self.body[1:]:
            block.causal = True


class Mixing(nn.Module):
    """Each token looks at itself and at the mean of all, or of those up to it."""

    causal = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own, self.of_all = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        if self.causal:
            mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
        return x + self.norm(self.own(x) + self.of_all(mean)).relu()


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture
def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    item = torch.rand(12, 3, 12, 12, generator=generator)
    return [(item + 0.1 * torch.rand(item.shape, generator=generator)).clamp(0, 1) for _ in range(2)]


def paint(kind: int, seed: int, side: int = 24) -> np.ndarray:
    """A small picture of one of four kinds: stripes across, stripes down, a disc, a chequerboard."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    shift, scale = rng.uniform(0, 1, 2)
    wave = 3 + 3 * scale
    shape = [
        np.sin(2 * np.pi * (wave * y + shift)) > 0,
        np.sin(2 * np.pi * (wave * x + shift)) > 0,
        (x - 0.3 - 0.4 * shift) ** 2 + (y - 0.3 - 0.4 * scale) ** 2 < 0.05,
        (np.sin(2 * np.pi * wave * x) * np.sin(2 * np.pi * wave * y)) > 0,
    ][kind]
    back, front = rng.uniform(0, 255, (2, 3))
    picture = np.where(shape[..., None], front, back) + rng.normal(0, 8, (side, side, 3))
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4 class folders with 16 small PNG files each."""
    root = tmp_path_factory.mktemp("pictures")
    for kind, name in enumerate(("across", "down", "disc", "chequer")):
        (root / name).mkdir()
        for k in range(16):
            Image.fromarray(paint(kind, 100 * kind + k)).save(root / name / f"{k:02d}.png")
    return root


@pytest.fixture
def odd_name(tmp_path: Path) -> Callable[[bytes], str]:
    """Any bytes as the name of a file; skips where the file system takes UTF-8 only."""
    try:
        (tmp_path / os.fsdecode(b"\xff")).touch()
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    (tmp_path / os.fsdecode(b"\xff")).unlink()
    return os.fsdecode


QUICK: dict[str, Any] = {  # settings of `pretrain` that take a second
    "encoder": "tests.nets:tiny",
    "size": 16,
    "epochs": 2,
    "batch_size": 16,
    "workers": 0,
    "precision": "fp32",
    "method": {"name": "byol", "hidden": 16, "out": 8},
}


@pytest.fixture(scope="session")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on `pictures`. To be looked at only: copy it to change it."""
    import selfsame as ss

    return ss.pretrain(pictures, out=tmp_path_factory.mktemp("runs") / "finished", **QUICK).folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a residual net with random weights, for pictures of 32 px."""
    from selfsame.modalities import image

    folder = tmp_path_factory.mktemp("untrained")
    stats = image.Stats(
        items=8, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=32, width=32, uniform=True
    )
    torch.manual_seed(0)
    image.save_encoder(image.make_encoder("resnet10t@0.25", 32, stats), folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED

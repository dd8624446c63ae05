"""What the tests of vectors need: an encoder at rest, whose making takes no training."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def encoded_by(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder of random weights for `pictures`: all that an index needs of a run."""
    from selfsame.modalities import image

    source = image.open_source(str(pictures))
    stats, _ = image.measure(source)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "encoder"
    image.save_encoder(image.make_encoder("tests.nets:tiny", 16, stats), folder)
    return folder

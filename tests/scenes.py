"""Scenes made for tests: shapes over a ground, and everything that is true of them to the pixel.

A scene is a function of its seed and size. Discs are reddish, squares greenish, triangles bluish; what is far is dark,
so that masks, boxes and depth can be learned in seconds. Nearer shapes hide others.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "disc", "square", "triangle")  # number 0 is where no shape is
POINTS = ("left", "right", "top", "bottom")  # of each shape; the first two change places in a mirror
FAR = 4.0  # metres


@dataclass(frozen=True)
class Scene:
    image: np.ndarray
    """uint8 [h w 3]"""
    mask: np.ndarray
    """uint8 [h w]: number of the class in CLASSES"""
    instances: np.ndarray
    """uint8 [h w]: 0, or 1 + number of the shape; the same number is the same shape in each frame of `film`"""
    depth: np.ndarray
    """float32 [h w], metres"""
    boxes: np.ndarray
    """float64 [n 4]: left, top, right, bottom of what is seen of each shape; pixel i covers i to i + 1"""
    classes: np.ndarray
    """int64 [n]: 1 to 3"""
    points: np.ndarray
    """float64 [n 4 3]: x, y and 2 where seen, 1 where hidden by another shape, 0 outside of the picture; see POINTS"""


@dataclass(frozen=True)
class Shape:
    kind: int
    x: float
    y: float
    radius: float
    depth: float
    colour: np.ndarray
    step: tuple[float, float]
    """pixels it moves from frame to frame"""

    def covers(self, size: int) -> np.ndarray:
        """Boolean [h w]: the pixels whose middle lies in the shape."""
        down, across = np.mgrid[:size, :size] + 0.5
        x, y, r = across - self.x, down - self.y, self.radius
        if self.kind == 1:
            return x**2 + y**2 < r**2
        if self.kind == 2:
            return np.maximum(abs(x), abs(y)) < r
        return (abs(y) < r) & (abs(x) < (y + r) / 2)  # the tip is up

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Where its POINTS are."""
        x, y, r = self.x, self.y, self.radius
        level = y + r if self.kind == 3 else y
        return [(x - r, level), (x + r, level), (x, y - r), (x, y + r)]


def shapes_of(seed: int, size: int, most: int = 3) -> list[Shape]:
    """One to `most` shapes, far ones first."""
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(int(rng.integers(1, most + 1))):
        kind, depth = int(rng.integers(1, 4)), rng.uniform(0.8, 3.0)
        colour = rng.uniform(20, 90, 3)
        colour[kind - 1] = rng.uniform(190, 255)
        x, y = rng.uniform(0.2, 0.8, 2) * size
        step = rng.uniform(-0.04, 0.04, 2) * size
        shapes.append(Shape(kind, x, y, rng.uniform(0.12, 0.2) * size, depth, colour, (step[0], step[1])))
    return sorted(shapes, key=lambda shape: -shape.depth)


def scene(seed: int, size: int = 64, most: int = 3, frame: int = 0) -> Scene:
    """A scene, or a later frame of it: its shapes have moved, its ground has not."""
    rng = np.random.default_rng([seed, 1])
    rows = (np.arange(size)[:, None] + 0.5) / size
    depth = np.broadcast_to(FAR - rng.uniform(2.0, 3.0) * rows, (size, size)).astype(np.float32)  # a floor
    image = np.broadcast_to(rng.uniform(150, 200), (size, size, 3)).copy()
    mask, instances = np.zeros((2, size, size), np.uint8)
    # The nearest is painted last; its number is the place in the list, which is the same in each frame.
    shapes = shapes_of(seed, size, most)
    moved = [replace(one, x=one.x + frame * one.step[0], y=one.y + frame * one.step[1]) for one in shapes]
    for number, shape in enumerate(moved, start=1):
        where = shape.covers(size)
        image[where], mask[where], instances[where], depth[where] = shape.colour, shape.kind, number, shape.depth
    noise = np.random.default_rng([seed, 2, frame]).normal(0, 6, image.shape)
    image = (image * (1.25 - 0.25 * depth[..., None]) + noise).clip(0, 255).astype(np.uint8)
    seen = [number for number in range(1, len(moved) + 1) if (instances == number).any()]
    boxes, points = [], []
    for number in seen:
        y, x = np.nonzero(instances == number)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        points.append([(*at, visibility(at, number, instances)) for at in moved[number - 1].corners])
    return Scene(
        image,
        mask,
        instances,
        depth,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([moved[number - 1].kind for number in seen], dtype=np.int64),
        np.array(points, dtype=np.float64).reshape(-1, len(POINTS), 3),
    )


def visibility(at: tuple[float, float], number: int, instances: np.ndarray) -> int:
    """2 where no nearer shape lies over the point, 1 where one does, 0 outside of the picture."""
    column, row = (int(np.floor(value)) for value in at)
    if not (0 <= column < instances.shape[1] and 0 <= row < instances.shape[0]):
        return 0
    return 1 if instances[row, column] > number else 2


def scenes(count: int, size: int = 64, seed: int = 0) -> list[Scene]:
    return [scene(1000 * seed + k, size) for k in range(count)]


def film(seed: int, size: int = 64, frames: int = 8) -> list[Scene]:
    """A scene whose shapes move, each by the same step from frame to frame."""
    return [scene(seed, size, frame=frame) for frame in range(frames)]


# Written to disk -----------------------------------------------------------------------------------------------------


def write_images(folder: Path, made: Sequence[Scene]) -> list[Path]:
    """00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:02d}.png" for k in range(len(made))]
    for path, one in zip(paths, made, strict=True):
        Image.fromarray(one.image).save(path)
    return paths


def write_masks(folder: Path, made: Sequence[Scene]) -> Path:
    """image/ and label/, with class numbers as grey values and their names in classes.txt."""
    write_images(folder / "image", made)
    (folder / "label").mkdir()
    for k, one in enumerate(made):
        Image.fromarray(one.mask).save(folder / "label" / f"{k:02d}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def write_depth(folder: Path, made: Sequence[Scene]) -> Path:
    """NN.color.png beside NN.depth.png, 16 bits, millimetres."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, one in enumerate(made):
        Image.fromarray(one.image).save(folder / f"{k:02d}.color.png")
        Image.fromarray((1000 * one.depth).round().astype(np.uint16)).save(folder / f"{k:02d}.depth.png")
    return folder


def write_coco(folder: Path, made: Sequence[Scene]) -> Path:
    """images/ and annotations.json as COCO has it: boxes, and the points as keypoints of each."""
    write_images(folder / "images", made)
    images, boxes = [], []
    for k, one in enumerate(made):
        images.append({"id": k, "file_name": f"{k:02d}.png", "height": len(one.image), "width": one.image.shape[1]})
        for (left, top, right, bottom), kind, points in zip(one.boxes, one.classes, one.points, strict=True):
            area = (right - left) * (bottom - top)
            boxes.append({
                "id": len(boxes) + 1, "image_id": k, "category_id": int(kind), "iscrowd": 0, "area": area,
                "bbox": [left, top, right - left, bottom - top],
                "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
            })  # fmt: skip
    categories = [
        {"id": number, "name": name, "keypoints": list(POINTS)} for number, name in enumerate(CLASSES) if number
    ]
    labels = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(labels))
    return folder

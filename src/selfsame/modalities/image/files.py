"""Which files of a folder, a glob or an archive are images or videos: by suffix, and images also by their content."""

from collections.abc import Iterable

from selfsame.errors import UnreadableItem
from selfsame.modalities.image.decode import Picture, readable, suffixes
from selfsame.storage.folders import arrays_apart, converted
from selfsame.storage.opening import Kind, Opened


def holds_image(opened: Opened, name: str) -> bool:
    try:
        with readable(), opened(name) as file:
            Picture(file)
    except UnreadableItem:
        return False
    return True


def cure(others: Iterable[str]) -> str:
    """How files of other suffixes are read all the same, or converted."""
    others = list(others)
    return arrays_apart(others) + converted(others)


IMAGE_FILES = Kind("images", "photos/**/*.jpg", suffixes, holds_image, cure)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
VIDEO_FILES = Kind("videos", "films/**/*.mp4", lambda: VIDEO_SUFFIXES)

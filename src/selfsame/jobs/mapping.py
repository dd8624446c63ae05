"""What `maps` does: items through the encoder, their maps into files, one batch held at a time."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from torch import Tensor, nn

from selfsame.downstream.outputs import into_folder
from selfsame.engine import dist
from selfsame.engine.feed import feed
from selfsame.engine.plan import workers_for
from selfsame.engine.watch import say
from selfsame.errors import UserError, printable
from selfsame.jobs.data import Chunks, Data, check_share, open_frames
from selfsame.jobs.maps import Maps
from selfsame.jobs.runs import load
from selfsame.types import Encoder

FORMAT = 1
PLACES = 14  # least places of a side of the map that is drawn, where there is such a map
TILE, GAP = 96, 4  # pixels
ACROSS = 8  # items in a row of the sheet


def run(job: Maps, module: nn.Module | None = None) -> dict[str, Any]:
    on = dist.device(job.device)
    encoder = load(job.run_folder, module)
    if not encoder.has_maps:
        raise UserError(
            f"{job.run_folder}: its encoder, {encoder.spec.get('name')}, has no maps. Train a network of the library, "
            "or give yours a method maps(x)."
        )
    encoder = encoder.to(on).eval()
    data = open_frames(job.data, encoder, None, job.fps)
    facts: list[dict[str, Any]] = []
    drawn: list[tuple[np.ndarray, Image.Image]] = []
    count = 0

    def written() -> Iterator[tuple[str, Any]]:
        nonlocal count
        for items, view, found in mapped(job, encoder, data, on):
            if not facts:
                facts.extend(described(found, view, job.levels))
            kept = [found[one["level"]] for one in facts]
            for row, item in enumerate(items):
                arrays = {one["name"]: each[row] for one, each in zip(facts, kept, strict=True)}
                if job.half:
                    arrays = {name: in_half(array, data.source.name(item)) for name, array in arrays.items()}
                if len(drawn) < job.sheet:
                    drawn.append((kept[level_to_draw(facts)][row].astype(np.float32), seen(data, item, view[row])))
                count += 1
                name = printable(data.source.name(item))
                yield name, partial(save, name=name, arrays=arrays, kind=job.to, facts=facts)
        check_share(data, job.max_skipped)

    def tell(draft: Path) -> None:
        draft.write_text(json.dumps(story(job, encoder, facts, count), indent=1) + "\n", encoding="utf-8")

    def draw(draft: Path) -> None:
        sheet(drawn).save(draft, format="PNG")

    more: dict[str, Any] = {"maps.json": tell, **({"sheet.png": draw} if job.sheet else {})}
    into_folder(written(), f".{job.to}", job.out, more)
    for item, why in sorted(data.skipped.items()):
        say(f"skipped {printable(data.source.name(item))}: {why}", "yellow")
    for one in facts:
        stride = " x ".join("?" if s is None else f"{s:g}" for s in one["stride"]) or "-"
        say(f"{one['name']}: {one['channels']} channels, {' x '.join(map(str, one['places']))} places, stride {stride}")
    say(f"the maps of {count:,} items are in {job.out}, described in maps.json", "green")
    skipped = {printable(data.source.name(item)): why for item, why in sorted(data.skipped.items())}
    return {"out": str(job.out), "items": count, "maps": facts, "skipped": skipped}


def mapped(
    job: Maps, encoder: Encoder, data: Data, on: torch.device
) -> Iterator[tuple[list[int], np.ndarray, list[np.ndarray]]]:
    """(items, views, maps from fine to coarse [b c ...]) batch by batch; what cannot be read goes to data.skipped."""
    workers, _ = workers_for(data.source.array is not None, job.workers)
    views = data.modality.recipe("weak", encoder.spec["size"], data.stats)
    items = range(len(data.source))
    chunks = Chunks(data, views, items, job.batch_size)
    for batch in feed(chunks, 0, len(chunks), workers):
        data.skipped.update(batch.skipped)
        wanted = items[batch.step * job.batch_size : (batch.step + 1) * job.batch_size]
        kept = [i for i in wanted if i not in batch.skipped]
        if kept:
            with torch.inference_mode():
                view = batch.samples[0].to(on)
                found: list[Tensor] = encoder.maps(view)
            yield kept, view.cpu().numpy(), [one.float().cpu().numpy() for one in found]


def described(found: list[np.ndarray], view: np.ndarray, levels: tuple[int, ...]) -> list[dict[str, Any]]:
    """What each map is: channels, places along its axes, and how many values of a view lie behind a place of each axis.

    The axes are those of the view, compared from the last; None where the view has no such axis.
    """
    for level in levels:
        if not 0 <= level < len(found):
            raise UserError(f"--levels {level}: the encoder has {len(found)} maps, from 0 to {len(found) - 1}.")
    facts = []
    for level in levels or range(len(found)):
        channels, *places = found[level].shape[1:]
        sides = [None] * len(places) + list(view.shape[2:])
        behind = sides[len(sides) - len(places) :] if places else []
        stride = [side / place if side and place else None for side, place in zip(behind, places, strict=True)]
        facts.append({
            "name": f"map{level}", "level": level, "channels": channels, "places": places, "stride": stride,
        })  # fmt: skip
    return facts


def in_half(array: Float[np.ndarray, "c *p"], name: str) -> np.ndarray:
    """As 16-bit floats. Raises UserError where a value does not fit."""
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(f"the maps of {name} hold values beyond 65504, which 16 bits cannot hold. Leave out --half.")
    return array.astype(np.float16)


def save(draft: Path, name: str, arrays: dict[str, np.ndarray], kind: str, facts: list[dict[str, Any]]) -> None:
    if kind == "npz":
        with draft.open("wb") as file:  # by its name, numpy would add a suffix
            np.savez(file, name=np.array(name), **arrays)  # type: ignore[arg-type]
        return
    told = {"name": name} | {
        one["name"]: json.dumps({key: one[key] for key in ("channels", "places", "stride")}) for one in facts
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(draft), metadata=told)
    draft.chmod(0o644)  # safetensors would keep it from other users


def story(job: Maps, encoder: Encoder, facts: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """maps.json: what wrote the files, and how to read them."""
    return {
        "format": FORMAT,
        "encoder": {
            "name": encoder.called,
            **{key: encoder.spec.get(key) for key in ("modality", "library", "size", "stats")},
        },
        "run": str(job.run_folder),
        "data": job.data,
        "items": count,
        "dtype": "float16" if job.half else "float32",
        "name": "each file says the name of its item: as the array `name` of .npz, in the metadata of .safetensors",
        "axes": "channels first: [channels, *places]",
        **({} if (crop := getattr(encoder, "crop", None)) is None else {"crop": crop}),  # of pictures
        "normalisation": "as the encoder gives them: nothing is divided or subtracted",
        "maps": facts,
    }


# The sheet -----------------------------------------------------------------------------------------------------------


def level_to_draw(facts: list[dict[str, Any]]) -> int:
    """The coarsest map with PLACES places along its last axis, or else the finest."""
    fine = [k for k, one in enumerate(facts) if one["places"] and one["places"][-1] >= PLACES]
    return fine[-1] if fine else 0


def seen(data: Data, item: int, view: np.ndarray) -> Image.Image:
    """What the encoder saw of a picture; of other items how people are shown them."""
    if data.modality.name != "image":
        return data.modality.picture(data.source, item).convert("RGB")
    values = view.astype(np.float32)
    low, high = (0.0, 255.0) if view.dtype == np.uint8 else (float(values.min()), float(values.max()))
    whole = ((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(whole if whole.shape[2] == 3 else whole[..., :1].repeat(3, axis=2))


def coloured(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Maps [c ...] of one depth as colours [... 3]: the three directions in which all places differ most."""
    rows = np.concatenate([one.reshape(len(one), -1).T for one in maps])
    width = min(3, *rows.shape)
    found = PCA(width, random_state=0).fit(rows[:: max(1, len(rows) // 20_000)]).transform(rows)
    low, high = np.percentile(found, (1, 99), axis=0)
    colours = np.zeros((len(rows), 3), dtype=np.uint8)
    colours[:, :width] = (255 * ((found - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).round()
    pieces, start = [], 0
    for one in maps:
        places = one.shape[1:]
        count = int(np.prod(places))
        pieces.append(colours[start : start + count].reshape(*places, 3))
        start += count
    return pieces


def sheet(drawn: list[tuple[np.ndarray, Image.Image]]) -> Image.Image:
    """Each item, and under it its map in colours; a sequence is a stripe."""
    colours = coloured([one for one, _ in drawn])
    across = min(ACROSS, len(drawn))
    step = 2 * TILE + GAP
    page = Image.new("RGB", (across * (TILE + GAP) - GAP, -(-len(drawn) // across) * (step + GAP) - GAP), "#ffffff")
    for k, ((_, shown), colour) in enumerate(zip(drawn, colours, strict=True)):
        left, top = k % across * (TILE + GAP), k // across * (step + GAP)
        page.paste(shown.resize((TILE, TILE), Image.Resampling.BILINEAR), (left, top))
        flat = colour if colour.ndim == 3 else colour.reshape(1, -1, 3)
        page.paste(Image.fromarray(flat).resize((TILE, TILE), Image.Resampling.NEAREST), (left, top + TILE))
    return page

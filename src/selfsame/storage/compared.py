"""What was exported, loaded again by the library it is for and compared with the encoder.

Raises: UserError where outputs have other shapes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.storage.wanted import SMALLER, Fed, Wanted, shortest

__all__ = ["apart", "compared", "tried", "uncompared"]


def tried(encoder: nn.Module, fed: Fed, load: str, use: str) -> dict[str, Any]:
    """The snippet, and how far what it gives is from the encoder, on batches of 2 (its own) and of 1 and 3."""
    return compared(encoder, fed, load, use, Wanted())


def compared(reference: nn.Module, fed: Fed, load: str, use: str, wanted: Wanted) -> dict[str, Any]:
    """As `tried`, of all outputs, other sizes too if they are wanted, and with the least cosine of two vectors."""
    snippet = load + f"{fed.name} = {fed.made}\n" + use
    given: list[Tensor | None] = [None, fed.example(1), fed.example(3)]
    if (wanted.any_size or wanted.preprocessing) and fed.sized is not None:
        usual = fed.example(1).shape
        for share in (1 / SMALLER, 1.5):
            lengths = [
                max(2, round(usual[number] * share * (1 + 0.5 * k) / axis.multiple)) * axis.multiple
                for k, (number, axis) in enumerate(fed.axes.items())
            ]
            most = [axis.most or length for axis, length in zip(fed.axes.values(), lengths, strict=True)]
            given.append(fed.sized([min(pair) for pair in zip(lengths, most, strict=True)]))
    names: dict[str, Any] = {}
    difference, cosine, outputs = 0.0, 1.0, []
    with torch.no_grad():
        exec(snippet, names)
        for batch in given:
            if batch is not None:
                names[fed.name] = batch
                exec(use, names)
            found = (
                (names["vectors"], *names.get("maps", []))
                if wanted.behind is None
                else [names[name] for name in wanted.behind.outputs]
            )
            outputs = [torch.as_tensor(one) for one in found]
            expected = reference(names[fed.name])
            expected = [expected] if isinstance(expected, Tensor) else list(expected)
            if [one.shape for one in outputs] != [one.shape for one in expected]:
                raise UserError(
                    f"what was exported gives {[list(one.shape) for one in outputs]}, "
                    f"the encoder {[list(one.shape) for one in expected]}."
                )
            if wanted.behind is not None and wanted.behind.apart is not None:
                difference = max(difference, wanted.behind.apart(outputs, expected))
            for one, other in zip(outputs, expected, strict=True):
                if not one.is_floating_point():
                    continue
                if wanted.behind is None or wanted.behind.apart is None:
                    difference = max(difference, apart(one, other))
                cosine = min(cosine, float(F.cosine_similarity(one.flatten(1), other.flatten(1)).min()))
    facts: dict[str, Any] = {"snippet": snippet, "difference": difference}
    if wanted.half:
        facts["cosine"] = cosine
    if wanted.maps:
        facts["maps"] = [of_map(one, None if wanted.preprocessing else fed) for one in reference(fed.example(1))[1:]]
    if wanted.any_size:
        facts["axes"] = {
            axis.name: {"least": shortest(fed, number, wanted), "multiple_of": axis.multiple, "most": axis.most}
            for number, axis in fed.axes.items()
        }
    return facts


def apart(one: Tensor, other: Tensor) -> float:
    """The largest absolute difference in units of the largest value of the other."""
    return float((one.float() - other).abs().max() / other.abs().max().clamp_min(1e-12))


def of_map(features: Float[Tensor, "b c ..."], fed: Fed | None) -> dict[str, Any]:
    """Channels and places of a map, and where the input has one size, of how many steps of it one place is."""
    places = list(features.shape[2:])
    facts: dict[str, Any] = {"channels": features.shape[1], "places": places}
    lengths = [] if fed is None else [fed.example(1).shape[axis] for axis in fed.axes]
    if lengths and len(places) >= len(lengths):
        facts["stride"] = [length / place for length, place in zip(lengths, places[-len(lengths) :], strict=True)]
    return facts


def uncompared(library: str, why: str | None = None) -> dict[str, Any]:
    """The facts of an export that could not be loaded by its library here."""
    reason = why or f"{library} is not installed here"
    return {"difference": None, "compared": f"{reason}, so nothing was compared: run the snippet where it is"}

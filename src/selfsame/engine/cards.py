"""Accelerators by their makers' published figures. Loads no torch.

Sources: the makers' data sheets: A100 80GB SXM, H100 SXM, H200 SXM, HGX B200, L40S (NVIDIA), MI300X (AMD), and the
architecture papers of GeForce RTX 30 and 40. Products of matrices are dense, without sparsity, summed up in fp32.
"""

from typing import Annotated

from pydantic import Field

from selfsame.errors import unknown
from selfsame.records import Record

__all__ = ["CARDS", "Card", "card_of"]


class Card(Record):
    """One accelerator, and the usual server around it."""

    name: str
    bf16: float
    """TFLOP/s of matrix products"""
    fp32: float
    """TFLOP/s outside the matrix units"""
    memory: float
    """GiB"""
    bandwidth: float
    """GB/s of its memory"""
    link: float
    """GB/s in one direction to the cards of its server"""
    hop: float
    """microseconds that a short message takes to the next card of the server"""
    network: float
    """GB/s in one direction to other servers, a card; of the usual server, not of the card"""
    watts: float
    """largest power of the card alone"""
    a_server: Annotated[int, Field(ge=1)] = 8
    """cards of a server"""


NVLINK, PCIE = 0.6, 1.0  # hops as NCCL's own model has them (src/graph/tuning.cc, protocol LL)

CARDS = {
    "a100": Card(name="A100 80GB SXM", bf16=312, fp32=19.5, memory=80, bandwidth=2039, link=300, hop=NVLINK,
                 network=25, watts=400),
    "h100": Card(name="H100 SXM", bf16=989, fp32=67, memory=80, bandwidth=3350, link=450, hop=NVLINK,
                 network=50, watts=700),
    "h200": Card(name="H200 SXM", bf16=989, fp32=67, memory=141, bandwidth=4800, link=450, hop=NVLINK,
                 network=50, watts=700),
    "b200": Card(name="B200 SXM", bf16=2250, fp32=75, memory=180, bandwidth=8000, link=900, hop=NVLINK,
                 network=50, watts=1000),
    "mi300x": Card(name="MI300X", bf16=1307, fp32=163, memory=192, bandwidth=5300, link=448, hop=NVLINK,
                   network=50, watts=750),
    "l40s": Card(name="L40S", bf16=362, fp32=91.6, memory=48, bandwidth=864, link=32, hop=PCIE,
                 network=3.1, watts=350),
    "rtx4090": Card(name="GeForce RTX 4090", bf16=165, fp32=82.6, memory=24, bandwidth=1008, link=32, hop=PCIE,
                    network=1.6, watts=450),
    "rtx3090": Card(name="GeForce RTX 3090", bf16=71, fp32=35.6, memory=24, bandwidth=936, link=32, hop=PCIE,
                    network=1.6, watts=350),
}  # fmt: skip


def card_of(name: str) -> Card:
    """The card of that name, however it is written: H100, h-100. Raises UserError with the nearest names."""
    key = "".join(letter for letter in name.lower() if letter.isalnum())
    if key not in CARDS:
        raise unknown("card", name, CARDS, "--gpu names the one that the job would run on.")
    return CARDS[key]

"""What chips can do, and slices of them by name: `v5e:2x4`."""

import dataclasses
import math
import re
from typing import Any

import jax

from spot_jax.errors import SpotError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of accelerators.

    Attributes:
        name: name of the generation.
        flops: operations a second in bfloat16.
        memory: bytes that a program may use.
        bandwidth: bytes a second from the chip's memory.
        interconnect: bytes a second between chips, both directions together.
        price: dollars a chip-hour on demand; None where there is no list price.
        slices: slices that are sold, smallest first.
        source: origin of these numbers.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    price: float | None
    slices: tuple[str, ...] = ()
    source: str = ""


_PAGES = "cloud.google.com/tpu/docs/{}; cloud.google.com/tpu/pricing (United States, on demand)"
# Memory is what the compiler leaves to a program, which is a little less than what is sold.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v5e",
            197e12,
            15.75 * GIB,
            819e9,
            200e9,
            1.20,
            ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
            _PAGES.format("v5e"),
        ),
        Chip(
            "v5p",
            459e12,
            95.74 * GIB,
            2765e9,
            600e9,
            4.20,
            ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
            _PAGES.format("v5p"),
        ),
        Chip(
            "v6e",
            918e12,
            31.25 * GIB,
            1638e9,
            448e9,
            2.70,
            ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
            _PAGES.format("v6e"),
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that a program is compiled for.

    Attributes:
        name: name as users type it, such as "v5e:2x4".
        chip: generation of the chips.
        devices: devices of JAX, one a chip.
    """

    name: str
    chip: Chip
    devices: tuple[Any, ...]


def open_slice(name: str) -> Slice:
    """Return a slice by name; "here" is this machine's own devices.

    Raises:
        SpotError: no such slice, or TPU's compiler is not installed.
    """
    if name == "here":
        return _here()
    generation, count = parse(name)
    from jax.experimental import topologies

    shape = name.partition(":")[2]
    options = {"chips_per_host_bounds": [1, 1, 1]} if count == 1 else {}
    try:
        topology = topologies.get_topology_desc(f"{generation}:{shape}", "tpu", **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise SpotError(
            f"{name}: no such slice, or TPU's compiler is missing ({reason}); "
            f"choose among {', '.join(CHIPS[generation].slices)}, and pip install 'spot-jax[tpu]'"
        ) from error
    return Slice(name, CHIPS[generation], tuple(topology.devices))


def parse(name: str) -> tuple[str, int]:
    """Return the generation and the number of chips of "v5e:2x4"; `SpotError` if it is none."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not match or match[1] not in CHIPS:
        raise SpotError(
            f"a topology is written {'|'.join(CHIPS)}:SHAPE, such as v5e:2x4, found {name!r}"
        )
    return match[1], math.prod(map(int, match[2].split("x")))


def _here() -> Slice:
    devices = tuple(jax.devices())
    stats = devices[0].memory_stats() or {}
    memory = float(stats.get("bytes_limit", 0)) or math.inf
    unknown = math.nan
    chip = Chip(devices[0].device_kind, unknown, memory, unknown, unknown, None)
    return Slice("here", chip, devices)

"""`spot plan`: whether a run fits on a TPU slice, how long it takes and what it costs."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from spot_jax.cli.flags import gin_flags, parser
from spot_jax.errors import SpotError
from spot_jax.files import write_whole

CHIP_FLAGS = {
    "flops": "operations a second, bfloat16",
    "memory": "bytes a program may use",
    "bandwidth": "bytes a second of the memory",
    "interconnect": "bytes a second between chips",
    "price": "dollars a chip-hour",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot plan --help`."""
    flags = parser(
        "plan",
        "Compile the programs of a run for TPU slices, without a TPU and without weights, and say\n"
        "whether they fit, what a step takes at least, and what the run costs. The exit code is 1\n"
        "if nothing fits.\n\n"
        "  spot plan --gin_file=RUN.gin --topology v5e:2x4 --topology v6e:2x2\n"
        "  spot plan --gin_file=RUN.gin --topologies v5e,v5p,v6e     the cheapest slice of each\n"
        "  spot plan --gin_file=RUN.gin --topology here              this machine's own devices",
        settings=True,
    )
    flags.add_argument("--topology", action="append", default=[], metavar="NAME:SHAPE")
    flags.add_argument("--topologies", metavar="A,B,C", help="generations to choose slices from")
    flags.add_argument("--model", metavar="NAME", help="of gin_configs/models, for the backbone's")
    flags.add_argument("--mesh", metavar="DATAxMODEL", help="default: the run's, else 1xCHIPS")
    flags.add_argument(
        "--exact", action="store_true", help="compile as the run does: about three times as long"
    )
    flags.add_argument("--json", action="store_true", help="print JSON, not a table")
    flags.add_argument("--output", metavar="FILE", help="write the JSON too")
    for name, what in CHIP_FLAGS.items():
        flags.add_argument(f"--{name}", type=float, metavar="X", help=f"of a chip: {what}")
    values, settings = gin_flags(flags, arguments)
    if not values.topology and not values.topologies:
        raise SpotError("say where: --topology v5e:2x4 (repeatable), or --topologies v5e,v5p,v6e")
    # Compiling for another machine asks nobody about this one, and takes no TPU that another
    # process, such as a second plan, would have to wait for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

    from spot_jax.cli.configurables import configured
    from spot_jax.cli.values import mesh
    from spot_jax.planning.plan import cheapest, plan, table

    _, fields, _ = configured("train", **settings)
    chip = {name: getattr(values, name) for name in CHIP_FLAGS}
    options: dict[str, Any] = {
        "config": _shape(values.model) if values.model else None,
        "chip": {name: value for name, value in chip.items() if value is not None},
        "exact": values.exact,
    }
    shape = mesh(values.mesh) if values.mesh else None
    plans = [plan(fields, name, mesh=shape, **options) for name in values.topology]
    if values.topologies:
        plans += cheapest(fields, values.topologies.split(","), **options)
    text = json.dumps([_plain(dataclasses.asdict(each)) for each in plans], indent=1)
    if values.output:
        write_whole(values.output, text + "\n")
    if not plans:
        raise SpotError(f"no slice of {values.topologies} fits; try --topology to see what lacks")
    print(text if values.json else table(plans))
    return 0 if any(each.fits is not False for each in plans) else 1


def _shape(model: str) -> Any:
    """The shape of a model in gin_configs/models."""
    from spot_jax.cli import gin_files
    from spot_jax.t5.config import T5Config

    settings = gin_files.read([f"gin_configs/models/{model}.gin"])
    shape = {binding.parameter: binding.value for binding in settings.of("T5Config")}
    return T5Config(**shape)


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: null stands for what is unknown."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

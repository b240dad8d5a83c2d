"""The JSON record of a measurement on `mini`: where it was taken, and its results."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def write(path: str, what: str, backbone: Path, results: list[Any], **more: Any) -> None:
    """Write a measurement; `more` goes between the backbone and the machine.

    Args:
        path: path of the JSON file.
        what: description of the measurement, a line.
        backbone: directory of the stored T5.
        results: results in the order of measuring.
    """
    # Late: a script that starts a process per run needs no JAX before this.
    import jax

    from spot_jax.t5.stored import read_description

    described = read_description(backbone)
    record = {
        "what": what,
        "backbone": f"mini, {described.fingerprint[:12]}, width {described.config.emb_dim}",
        **more,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "load_average_at_the_end": [round(x, 1) for x in os.getloadavg()],
        "results": results,
    }
    Path(path).write_text(json.dumps(record, indent=1) + "\n")

"""What a measurement on `mini` leaves: where it was made, and what came of it, as JSON."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def write(path: str, what: str, backbone: Path, results: list[Any], **more: Any) -> None:
    """Writes it; `more` stands between what was measured with and where.

    Args:
        path: the file.
        what: was measured, a line.
        backbone: the stored T5.
        results: in the order they were made.
    """
    # Late: a script whose runs are processes of their own needs no JAX before.
    import jax

    from spot_jax.t5.stored import read_description

    described = read_description(backbone)
    made = {
        "what": what,
        "backbone": f"mini, {described.fingerprint[:12]}, width {described.config.emb_dim}",
        **more,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "load_average_at_the_end": [round(x, 1) for x in os.getloadavg()],
        "results": results,
    }
    Path(path).write_text(json.dumps(made, indent=1) + "\n")

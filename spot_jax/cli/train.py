"""`spot train`: one run, as a gin file describes it."""

import math
from collections.abc import Sequence

from spot_jax.cli.flags import gin_flags, parser
from spot_jax.metrics import not_numbers


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot train --help`."""
    made = parser(
        "train",
        "Tune a prompt, or a whole model, as a run file says. The same command again goes on\n"
        "where the run stopped.",
        settings=True,
    )
    together = made.add_argument_group("several processes (a TPU pod or SLURM needs none of these)")
    together.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    together.add_argument("--process_count", type=int, metavar="N", help="processes")
    together.add_argument(
        "--process_index", "--process_id", dest="process_id", type=int, metavar="I", help="0 to N-1"
    )
    flags, settings = gin_flags(made, arguments)

    from spot_jax.cli.configurables import configured

    train, given, text = configured("train", **settings)

    from spot_jax.training.distributed import start

    start(flags.coordinator_address, flags.process_count, flags.process_id)
    found = train(operative_config=text, **given)
    if not found.finished:
        print(f"stopped and saved at step {found.step}; the same command goes on from there")
        return 0
    print(f"step {found.step} of {found.directory} done")
    counts = {"inputs": found.truncated_inputs, "targets": found.truncated_targets}
    for side, count in counts.items():
        if count:
            share = f"{count} of {found.examples} {side}"
            print(f"{share} were longer than TASK_FEATURE_LENGTHS allows, and cut")
    for best in found.best:
        if best.step >= 0 and math.isfinite(best.score):
            print(f"best at step {best.step}: score {best.score:.4g}")
        elif best.step >= 0:
            failed = ", ".join(not_numbers(best.metrics))
            print(f"no score was a number ({failed}), so step {best.step}, the last, is chosen")
    for path in found.prompts or [found.directory / "backbone"]:
        print(path)
    return 0

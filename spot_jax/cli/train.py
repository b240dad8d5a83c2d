"""`spot train`: one run, as a gin file describes it, or as a file of one's own suggests."""

import math
from collections.abc import Sequence

from spot_jax.cli.flags import add_seqio_flags, gin_flags, parser, use_seqio_flags
from spot_jax.cli.own_data import CONFIG, add_data_flags, fill


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot train --help`."""
    flags = parser(
        "train",
        "Tune a prompt, or a whole model, as a run file says, or on a file of your own. The same\n"
        "command again goes on where the run stopped.\n\n"
        "  spot train --data tickets.csv --text subject,body --label queue \\\n"
        "    --backbone backbones/mini --model_dir runs/tickets",
        settings=True,
    )
    flags.usage = (
        f"{flags.usage}\n       spot train --data FILE --backbone DIR --model_dir DIR [...]"
    )
    add_data_flags(flags)
    add_seqio_flags(flags)
    flags.add_argument(
        "--dry_run", action="store_true", help="check the settings, print them, and do not train"
    )
    flags.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME",
        help="send the metrics to wandb or mlflow too (docs/tracking.md); repeatable",
    )
    values, settings = gin_flags(flags, arguments)
    if names := [name.strip() for group in values.track for name in group.split(",")]:
        settings["flags"].append((f"--track={','.join(names)}", f"train.trackers = {names!r}"))
    for line in fill(values, settings):
        print(line, flush=True)

    from spot_jax.cli.configurables import configured
    from spot_jax.metrics import not_numbers

    train, fields, text = configured("train", **settings)
    use_seqio_flags(values)
    if values.dry_run:
        print(text, end="")
        return 0
    result = train(operative_config=text, **fields)
    if not result.finished:
        raise KeyboardInterrupt(f"stopped and saved at step {result.step}")
    print(f"step {result.step} of {result.directory} done")
    counts = {"inputs": result.truncated_inputs, "targets": result.truncated_targets}
    for side, count in counts.items():
        if count:
            share = f"{count} of {result.examples} {side}"
            print(f"{share} were longer than TASK_FEATURE_LENGTHS allows, and cut")
    for best in result.best:
        if best.step >= 0 and math.isfinite(best.score):
            print(f"best at step {best.step}: score {best.score:.4g}")
        elif best.step >= 0:
            failed = ", ".join(not_numbers(best.metrics))
            print(f"no score was a number ({failed}), so step {best.step}, the last, is chosen")
    for path in result.prompts or [result.directory / "backbone"]:
        print(path)
    if values.data is not None:
        print(f"the same again: spot train --gin_file={result.directory / CONFIG}")
        print(f"next: spot eval {result.directory}; spot infer {result.directory} --input FILE")
    return 0

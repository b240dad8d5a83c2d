"""`spot tasks`: what can be trained on, what it looks like, and what is missing here."""

import textwrap
from collections.abc import Callable, Sequence

from spot_jax.cli.flags import parser

PROBLEMS = 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot tasks --help`."""
    if arguments and arguments[0] in ACTIONS:
        return ACTIONS[arguments[0]](list(arguments[1:]))
    flags = parser(
        "tasks",
        "List the names of all tasks and mixtures, one a line.\n\n"
        "  spot tasks list        the sets, with sizes, metrics and what papers use them for\n"
        "  spot tasks show NAME   the first examples, as text and as pieces\n"
        "  spot tasks check NAME  what of its data is missing on this machine, and how to get it",
    )
    flags.add_argument("modules", nargs="*", metavar="MODULE", help="modules that register more")
    values = flags.parse_args(arguments)

    from spot_jax.data import loading

    loading.import_modules(values.modules)
    from spot_jax.data import seqio_registry

    print("\n".join(seqio_registry.names()))
    return 0


def _list(arguments: list[str]) -> int:
    flags = parser(
        "tasks list", "The sets that have tasks; those of your own modules are not here."
    )
    flags.add_argument("--family", help="of a mixture, such as glue, or a group: papers, crossfit")
    flags.add_argument("--role", help="in a paper: source, target, shift, ipt_train, ipt_test")
    values = flags.parse_args(arguments)

    from tasks import listing

    print(listing.table(listing.selected(values.family, values.role)))
    if values.family is None and values.role is None:
        print("\n" + listing.summary())
    return 0


def _show(arguments: list[str]) -> int:
    flags = parser("tasks show", "The first examples of a task; of a mixture its tasks' shares.")
    flags.add_argument("name", metavar="NAME", help="a task or mixture")
    flags.add_argument("--split", default="train")
    flags.add_argument("--inputs", type=int, default=512, help="length of inputs (%(default)s)")
    flags.add_argument("--targets", type=int, default=114, help="length of targets (%(default)s)")
    flags.add_argument("--examples", type=int, default=3, metavar="N", help="to print (3)")
    flags.add_argument("--read", type=int, default=1000, metavar="N", help="to measure (1000)")
    flags.add_argument("--vocabulary", metavar="FILE", help="SentencePiece model; T5's by default")
    flags.add_argument("--module", action="append", default=[], help="that registers more")
    values = flags.parse_args(arguments)

    from spot_jax.data import loading
    from spot_jax.data.data_source import check_lengths
    from spot_jax.errors import COUNT, check_range

    check_lengths({"inputs": values.inputs, "targets": values.targets}, "--inputs and --targets")
    check_range("--examples", values.examples, COUNT)
    check_range("--read", values.read, COUNT)
    loading.import_modules(values.module)
    from spot_jax.data import seqio_samples
    from spot_jax.t5.vocabulary import load_vocabulary
    from tasks.t5_features import VOCABULARY

    shares = seqio_samples.parts(values.name)
    if shares:
        print("\n".join(f"{100 * share:8.4f}%  {task}" for task, share in shares))
        return 0
    vocabulary = load_vocabulary(values.vocabulary or VOCABULARY.sentencepiece_model_file)
    lengths = {"inputs": values.inputs, "targets": values.targets}
    samples = seqio_samples.show(
        values.name, values.split, vocabulary, lengths, examples=values.examples, read=values.read
    )
    for number, example in enumerate(samples.examples, start=1):
        print(f"example {number} of {values.name}, {values.split}")
        for feature, side in example.items():
            over = side.length - lengths[feature]
            print(f"  {feature}, {side.length} pieces{f', {over} of them cut' * (over > 0)}:")
            print(textwrap.indent(side.text, "    "))
            print(textwrap.indent(textwrap.fill(" ".join(side.pieces), 96), "    "))
    for feature, length in lengths.items():
        print(
            f"{samples.cut[feature]} of the first {samples.read:,} are longer than {length} pieces "
            f"of {feature} and would be cut; the longest has {samples.longest[feature]}"
        )
    return 0


def _check(arguments: list[str]) -> int:
    flags = parser("tasks check", "What of the tasks' data is missing or broken on this machine.")
    flags.add_argument("names", nargs="+", metavar="NAME", help="tasks or mixtures")
    flags.add_argument("--module", action="append", default=[], help="that registers more")
    values = flags.parse_args(arguments)

    from spot_jax.data import loading
    from tasks.checking import check

    if values.module:
        loading.import_modules(values.module)
    bad = 0
    for finding in (finding for name in values.names for finding in check(name)):
        bad += bool(finding.problems)
        print(f"{finding.name}: {'not as expected' if finding.problems else 'ok'}")
        for line in finding.problems:
            print(f"  {line}")
        if finding.problems:
            print(f"  layout: {finding.expects}")
    return PROBLEMS if bad else 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"list": _list, "show": _show, "check": _check}

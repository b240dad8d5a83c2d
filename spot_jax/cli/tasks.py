"""`spot tasks`: what can be trained on, what it looks like, and what is missing here."""

import textwrap
from collections.abc import Callable, Sequence

from spot_jax.cli.flags import parser

PROBLEMS = 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; see `spot tasks --help`."""
    if arguments and arguments[0] in ACTIONS:
        return ACTIONS[arguments[0]](list(arguments[1:]))
    made = parser(
        "tasks",
        "List the names of all tasks and mixtures, one a line.\n\n"
        "  spot tasks list        the sets, with sizes, metrics and what papers use them for\n"
        "  spot tasks show NAME   the first examples, as text and as pieces\n"
        "  spot tasks check NAME  what of its data is missing on this machine, and how to get it",
    )
    made.add_argument("modules", nargs="*", metavar="MODULE", help="modules that register more")
    given = made.parse_args(arguments)

    from spot_jax.data import loading

    loading.import_modules(given.modules)
    from spot_jax.data import seqio_registry

    print("\n".join(seqio_registry.names()))
    return 0


def _list(arguments: list[str]) -> int:
    made = parser("tasks list", "The sets that have tasks; those of your own modules are not here.")
    made.add_argument("--family", help="of a mixture, such as glue, or a group: papers, crossfit")
    made.add_argument("--role", help="in a paper: source, target, shift, ipt_train, ipt_test")
    given = made.parse_args(arguments)

    from tasks import listing

    print(listing.table(listing.selected(given.family, given.role)))
    if given.family is None and given.role is None:
        print("\n" + listing.summary())
    return 0


def _show(arguments: list[str]) -> int:
    made = parser("tasks show", "The first examples of a task; of a mixture its tasks' shares.")
    made.add_argument("name", metavar="NAME", help="a task or mixture")
    made.add_argument("--split", default="train")
    made.add_argument("--inputs", type=int, default=512, help="length of inputs (%(default)s)")
    made.add_argument("--targets", type=int, default=114, help="length of targets (%(default)s)")
    made.add_argument("--examples", type=int, default=3, metavar="N", help="to print (3)")
    made.add_argument("--read", type=int, default=1000, metavar="N", help="to measure (1000)")
    made.add_argument("--vocabulary", metavar="FILE", help="SentencePiece model; T5's by default")
    made.add_argument("--module", action="append", default=[], help="that registers more")
    given = made.parse_args(arguments)

    from spot_jax.data import loading

    loading.import_modules(given.module)
    from spot_jax.data import seqio_samples
    from spot_jax.t5.vocabulary import load_vocabulary
    from tasks.t5_features import VOCABULARY

    shares = seqio_samples.parts(given.name)
    if shares:
        print("\n".join(f"{100 * share:8.4f}%  {task}" for task, share in shares))
        return 0
    vocabulary = load_vocabulary(given.vocabulary or VOCABULARY.sentencepiece_model_file)
    lengths = {"inputs": given.inputs, "targets": given.targets}
    found = seqio_samples.show(
        given.name, given.split, vocabulary, lengths, examples=given.examples, read=given.read
    )
    for number, example in enumerate(found.examples, start=1):
        print(f"example {number} of {given.name}, {given.split}")
        for feature, side in example.items():
            over = side.length - lengths[feature]
            print(f"  {feature}, {side.length} pieces{f', {over} of them cut' * (over > 0)}:")
            print(textwrap.indent(side.text, "    "))
            print(textwrap.indent(textwrap.fill(" ".join(side.pieces), 96), "    "))
    for feature, length in lengths.items():
        print(
            f"{found.cut[feature]} of the first {found.read:,} are longer than {length} pieces of "
            f"{feature} and would be cut; the longest has {found.longest[feature]}"
        )
    return 0


def _check(arguments: list[str]) -> int:
    made = parser("tasks check", "What of the tasks' data is missing or broken on this machine.")
    made.add_argument("names", nargs="+", metavar="NAME", help="tasks or mixtures")
    made.add_argument("--module", action="append", default=[], help="that registers more")
    given = made.parse_args(arguments)

    from spot_jax.data import loading
    from tasks.checking import check

    if given.module:
        loading.import_modules(given.module)
    bad = 0
    for finding in (finding for name in given.names for finding in check(name)):
        bad += bool(finding.problems)
        print(f"{finding.name}: {'not as expected' if finding.problems else 'ok'}")
        for line in finding.problems:
            print(f"  {line}")
        if finding.problems:
            print(f"  layout: {finding.expects}")
    return PROBLEMS if bad else 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"list": _list, "show": _show, "check": _check}

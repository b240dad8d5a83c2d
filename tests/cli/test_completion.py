"""Completion: what a real shell offers for a line, and that a script costs no import of jax."""

import subprocess
import sys
from pathlib import Path

import pytest

from spot_jax.cli.completion import commands
from spot_jax.cli.main import VERBS, main
from spot_jax.shipped import NAMES

ROOT = Path(__file__).resolve().parents[2]


def printed(*words):
    """What `spot` prints."""
    command = [sys.executable, "-m", "spot_jax.cli.main", *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def script():
    """The scripts by shell, printed by child processes."""
    return {shell: printed("completion", shell) for shell in ("bash", "zsh", "fish")}


def offered(script, directory, *words):
    """What bash offers for the last of some words, as readline calls the function."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        'function=$(complete -p spot); function=${function#*-F }; "${function%% *}" 2>&1\n'
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    child = ["bash", "--norc", "--noprofile", "-c", program]
    return subprocess.run(
        child, cwd=directory, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_bash_completes_verbs_flags_values_tasks_and_paths(script, tmp_path):
    for name in ("tickets.csv", "two words.csv", "runs"):
        (tmp_path / name).mkdir() if name == "runs" else (tmp_path / name).touch()

    def of(*words):
        return sorted(offered(script["bash"], tmp_path, "spot", *words))

    assert of("") == sorted(VERBS)
    assert of("t") == ["tasks", "train", "transfer"]
    assert of("prompts", "s") == ["search", "show"]
    assert of("train", "--mod") == ["--model_dir"]
    assert of("prompts", "list", "--") == ["--backbone", "--help", "--json", "--library"]
    assert of("train", "--data", "t") == ["tickets.csv", "two words.csv"]
    # "=" is a word of its own to bash.
    assert of("train", "--data", "=", "ti") == ["tickets.csv"]
    assert of("train", "--data", "=") == ["runs", "tickets.csv", "two words.csv"]
    assert of("train", "--data=t") == [
        "--data=tickets.csv",
        "--data=two words.csv",
    ]  # as zsh has it
    assert of("train", "--method", "p") == ["prefix_tuning", "prompt_tuning"]
    assert of("train", "--tune", "--tr") == ["--track"]
    assert of("convert", "a", "b", "--to", "") == ["hf", "spot", "t5x"]
    assert of("train", "--label", "t") == []  # a column, of which the shell knows nothing
    assert of("doctor", "r") == ["runs"]
    names = NAMES.read_text().split()
    for words in (["tasks", "show"], ["transfer", "--target"], ["eval", "runs", "--task"]):
        assert of(*words, "bundled_clinc") == [n for n in names if n.startswith("bundled_clinc")]
    assert len(of("tasks", "check", "")) == len(names) > 500


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_without_the_heavy_packages(shell):
    words = f"import sys; from spot_jax.cli.main import main; main(['completion', {shell!r}])\n"
    words += "heavy = {'jax', 'seqio', 'tensorflow', 'numpy'} & set(sys.modules); assert not heavy"
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_every_command_has_its_flags(capsys):
    table = commands()
    assert {command.split()[0] for command in table} == {*VERBS}
    for command in ("train", "prompts import", "data check"):
        assert main([*command.split(), "--help"]) == 0
        text = capsys.readouterr().out
        for flag in table[command]:
            assert flag.name in text or flag.name == "--gin_bindings", flag

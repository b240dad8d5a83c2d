"""A run's prompt as one file that, with the backbone, is enough to predict with."""

import dataclasses
import os
from pathlib import Path

from spot_jax.errors import SpotError
from spot_jax.inference.predictor import choose, load
from spot_jax.inference.tuned import Prompt, run_prompts
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import is_prompt, load_prompt
from spot_jax.methods.prompt_use import check_licence
from spot_jax.training.run_info import RunSetup, read_setup


def prompt_of_run(
    run_dir: str | os.PathLike[str], *, task: str | None = None, which: str = "best"
) -> PromptFile:
    """Return a run's prompt with its task's labels and template, whenever the run was.

    Args:
        run_dir: run directory of `train`.
        task: name of the task, where the run has several.
        which: "best" by validation, or "last".

    Raises:
        SpotError: no run, no prompt in it yet, several tasks, or a run that tunes the weights.
    """
    setup = read_setup(run_dir)
    prompts = run_prompts(Path(run_dir).expanduser(), setup, which)
    if not prompts:
        raise SpotError(
            f"the run in {os.fspath(run_dir)} tuned the weights and has no prompt; its model is "
            f"the directory {os.fspath(run_dir)}/backbone"
        )
    read = tuple(Prompt(os.fspath(path), load_prompt(path)) for path in prompts)
    prompt, facts = choose(read, setup, task)
    assert prompt.file is not None
    return with_use(prompt.file, setup, facts.name)


def prompts_of_run(
    run_dir: str | os.PathLike[str], which: str = "best"
) -> list[tuple[str, PromptFile, Path]]:
    """Return a name, the file and its path for the best prompt of each of a run's tasks."""
    setup, directory = read_setup(run_dir), Path(run_dir).expanduser()
    paths = run_prompts(directory, setup, which)
    by_task: dict[str, list[Path]] = {}
    for facts, path in zip(setup.tasks, paths, strict=False):
        by_task.setdefault(facts.name, []).append(path)
    results = []
    for task, some in by_task.items():
        best = max((Prompt(os.fspath(p), load_prompt(p)) for p in some), key=lambda p: p.score)
        assert best.file is not None
        name = directory.name if len(by_task) == 1 else f"{directory.name}-{task}"
        results.append((name, with_use(best.file, setup, task), Path(best.name)))
    return results


def with_use(file: PromptFile, setup: RunSetup, task: str) -> PromptFile:
    """Return a run's prompt file with what the run knows of its use, where the file does not."""
    if file.use.lengths:
        return file
    facts = next(facts for facts in setup.tasks if facts.name == task)
    return dataclasses.replace(file, use=facts.use(setup.lengths))


def exported(
    source: str | os.PathLike[str],
    *,
    task: str | None = None,
    which: str = "best",
    backbone: str | os.PathLike[str] | None = None,
    calibrate: str | None = None,
    licence: str = "",
    card: str | None = None,
) -> PromptFile:
    """Return a prompt file with all of its use, for `PromptFile.save`.

    Args:
        source: run directory, or path of a prompt file.
        task: name of the task, where the run has several.
        which: "best" by validation, or "last", of a run's prompts.
        backbone: directory of the backbone, for calibration; the run's by default.
        calibrate: split to calibrate probabilities on, such as "validation"; None for not.
        licence: SPDX identifier of the prompt's licence.
        card: Markdown for people; None to write one of what the file says.

    Raises:
        SpotError: as `prompt_of_run`, or as calibration.
    """
    if is_prompt(source):
        file = load_prompt(source)
    else:
        file = prompt_of_run(source, task=task, which=which)
    use = file.use
    if calibrate is not None:
        predictor = load(source, backbone=backbone, which=which, calibrate=calibrate, task=task)
        use = dataclasses.replace(use, temperature=predictor.ready.temperature)
    if licence:
        check_licence(licence)
        use = dataclasses.replace(use, licence=licence)
    file = dataclasses.replace(file, use=use)
    if card is None:
        card = use.card or card_of(file)
    return dataclasses.replace(file, use=dataclasses.replace(use, card=card))


def card_of(file: PromptFile) -> str:
    """Return a model card of what a prompt file says: Markdown after YAML as hubs read it."""
    use, method = file.use, str(file.method.get("name") or "prompt")
    kind = "text-classification" if use.labels else "text2text-generation"
    head = ["---", "library_name: spot-jax", f"pipeline_tag: {kind}"]
    if use.licence:
        head.append(f"license: {use.licence.lower()}")
    head += ["tags:", "- t5", "- soft-prompt", f"- {method}"]
    metrics = {n: v for n, v in file.metrics.items() if n not in ("loss", "score")}
    name = file.task or "a task"
    if metrics:
        head += ["model-index:", f'- name: "{name}"', "  results:", "  - task:"]
        head += [f"      type: {kind}", "    dataset:", f'      name: "{name}"']
        head += [f'      type: "{name}"', "      split: validation", "    metrics:"]
        for metric, value in metrics.items():
            head += [f"    - type: {metric}", f"      value: {value:.4f}"]
    lines = [*head, "---", "", f"# {method} on {name}", ""]
    lines += [
        f"A prompt for one frozen T5 (fingerprint {file.backbone[:12] or 'unknown'}), after "
        f"{file.step} steps.",
        "",
    ]
    if use.labels:
        lines += [f"It chooses among {len(use.labels)} labels: {', '.join(use.labels)}.", ""]
    if use.template:
        lines += [f"A text is written as `{use.template}`.", ""]
    lines += ["```python", "import spot_jax as spot", ""]
    lines += ['spot.load("FILE.safetensors", backbone="DIR").predict("a text")', "```", ""]
    return "\n".join(lines)

"""P-Tuning from the command line: any task in a template, LAMA, from the run and from its file."""

import io
import json

import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main

TEMPLATE = "<prompt:1> {text:cut} It was <prompt:2> {target}."


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return store_backbone(tmp_path_factory.mktemp("p_tuning") / "backbone")


def train(directory, backbone, task, file="p_tuning", **macros):
    settings = {
        "MODEL_DIR": repr(str(directory)),
        "INITIAL_CHECKPOINT_PATH": repr(backbone),
        "MIXTURE_OR_TASK_NAME": repr(task),
        "TASK_FEATURE_LENGTHS": "{'inputs': 24, 'targets': 4}",
        "TRAIN_STEPS": "1",
        "EVAL_PERIOD": "1",
        "BATCH_SIZE": "64",
        **macros,
    }
    flags = [f"--gin.{name}={value}" for name, value in settings.items()]
    return main(["train", f"--gin_file=gin_configs/runs/{file}.gin", *flags])


@pytest.mark.slow
def test_a_bundled_task_in_a_template(backbone, tmp_path, capsys, monkeypatch):
    run, task = tmp_path / "run", "bundled_vader_tweets"
    options = {"TEMPLATE": repr(TEMPLATE), "ENCODER": "'mlp'", "EvaluationPlan.examples": "64"}
    assert train(run, backbone, task, **options) == 0
    prompt = str(run / "prompts" / "best-0.safetensors")
    assert (run / "prompts" / "encoder-best-0.safetensors").exists()
    best = json.loads((run / "result.json").read_text())["best"][0]
    capsys.readouterr()
    scores = []
    for where in ([str(run)], ["--backbone", backbone, "--prompt", prompt]):
        arguments = ["--split", "validation", "--examples", "64", "--inputs_length", "24"]
        assert main(["eval", *where, *arguments, "--targets_length", "4", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["task"].startswith(f"{task}_template_")
        scores.append((row["score"], pytest.approx(row["loss"], rel=1e-6)))
    assert scores[0] == scores[1] == (best["score"], best["metrics"]["loss"])
    # A run and its file write the fields of a line alike, and not otherwise than training did.
    written = []
    for where in ([str(run)], ["--backbone", backbone, "--prompt", prompt]):
        for line in ('{"text": "what a day"}', '{"inputs": "what a day"}'):
            monkeypatch.setattr("sys.stdin", io.StringIO(line))
            code = main(["infer", *where, "--labels", "negative,positive"])
            out, err = capsys.readouterr()
            if "inputs" in line:
                assert code == 2 and "with 3 places for virtual tokens" in err
            else:
                written.append(json.loads(out))
    assert written[0] == written[1]
    assert written[0]["text"] == "what a day" and written[0]["prediction"] in (
        "negative",
        "positive",
    )


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{text} <prompt:2>", "expected one {target} in a template"),
        ("{txt} <prompt:2> {target}", "has no field 'txt'"),
        ("{text} {target}", "expected virtual tokens in a template"),
        ("{text} <prompt:2> {target}" + " words" * 30, "nothing is left of the field"),
    ],
)
def test_bad_templates_are_one_line(template, complaint, backbone, tmp_path, capsys):
    code = train(tmp_path / "run", backbone, "bundled_vader_tweets", TEMPLATE=repr(template))
    out, err = capsys.readouterr()
    assert code == 2 and complaint in err and err.startswith("spot: ") and err.count("\n") == 1


@pytest.mark.slow
def test_a_relation_of_lama(backbone, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "data" / "lama"
    (folder / "single_relations").mkdir(parents=True)
    template = json.dumps({"template": "[X] is located in [Y] ."})
    (folder / "single_relations" / "P17.jsonl").write_text(template)
    facts = folder / "fact-retrieval" / "original" / "P17"
    facts.mkdir(parents=True)
    for stem in ("train", "dev", "test"):
        rows = [
            {"sub_label": f"Town {i}", "obj_label": ("Italy", "France")[i % 2]} for i in range(8)
        ]
        (facts / f"{stem}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("SPOT_DATA_DIR", str(tmp_path / "data"))
    run, options = tmp_path / "run", {"TRAIN_STEPS": "2", "BATCH_SIZE": "8"}
    assert train(run, backbone, "lama_P17_ptuning", "p_tuning_lama", **options) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    (scored,) = json.loads(capsys.readouterr().out)
    assert set(scored["metrics"]) == {"precision_at_1"} and scored["examples"] == 8
    monkeypatch.setattr("sys.stdin", io.StringIO('{"subject": "Rome"}'))
    assert main(["infer", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] in ("Italy", "France")

"""`spot plan` on this machine's own devices and, where TPU's compiler is, on slices of TPUs."""

import importlib.util
import json

import jax
import pytest
from tiny_text import store_backbone

from spot_jax.cli.main import main

SETTINGS = {
    "MODEL_DIR": "nowhere",
    "INITIAL_CHECKPOINT_PATH": "nowhere",
    "MIXTURE_OR_TASK_NAME": "bundled_sms_spam",
    "TASK_FEATURE_LENGTHS": {"inputs": 28, "targets": 4},
    "PROMPT_LENGTH": 4,
    "TRAIN_STEPS": 100,
    "EVAL_PERIOD": 10,
    "EvaluationPlan.examples": 64,
}


def plan(*flags, **settings):
    pairs = {**SETTINGS, **settings}.items()
    gin = [f"--gin.{name}={value!r}" for name, value in pairs]
    return main(["plan", "--gin_file=gin_configs/runs/prompt_tuning.gin", *gin, *flags])


def planned(capsys, *flags, **settings):
    code = plan("--json", *flags, **settings)
    return code, json.loads(capsys.readouterr().out)


def test_a_run_is_planned_on_the_devices_at_hand(tmp_path, capsys):
    backbone = store_backbone(tmp_path / "backbone")
    speed = ["--flops=1e12", "--memory=1e9", "--bandwidth=1e11", "--interconnect=1e10"]
    target = tmp_path / "plan.json"
    more = ["--topology=here", "--price=2.0", f"--output={target}", *speed]
    code, (each,) = planned(capsys, *more, "--mesh=8x1", INITIAL_CHECKPOINT_PATH=backbone)
    assert code == 0 and each["fits"] and each["mesh"] == "8x1" and each["chips"] == 8
    assert each["exact"]  # as it always is but for TPU's compiler
    weights = sum(f.stat().st_size for f in (tmp_path / "backbone").glob("*.safetensors"))
    assert each["weights"] == pytest.approx(weights, rel=0.02)
    # A prompt and Adafactor's moments of it.
    assert 4 * 16 * 4 <= each["state"] <= 3 * 4 * 16 * 4 + 64
    # Without scores of attention nothing is above 4 N T, and recomputing nothing is near it.
    assert 1.0 <= each["train"]["operations"] / each["bound"] < 1.6
    assert each["evaluation_batches"] == 10 * 2
    seconds = 100 * each["train"]["seconds"] + 20 * each["evaluation"]["seconds"]
    assert each["hours"] == pytest.approx(seconds / 3600)
    assert each["dollars"] == pytest.approx(2.0 * 8 * each["hours"])
    assert json.loads(target.read_text()) == [each]
    assert not (tmp_path / "nowhere").exists()


def test_little_effort_ends_with_the_plan():
    from spot_jax.planning.plan import _effort

    before = jax.config.jax_exec_time_optimization_effort
    with _effort(True):
        assert jax.config.jax_exec_time_optimization_effort == before
    with pytest.raises(ZeroDivisionError), _effort(False):
        assert jax.config.jax_exec_time_optimization_effort == -1.0
        raise ZeroDivisionError
    assert jax.config.jax_exec_time_optimization_effort == before


@pytest.mark.slow
def test_what_does_not_fit_says_what_would(tmp_path, capsys):
    backbone = store_backbone(tmp_path / "backbone")
    flags = ["--topology=here", "--memory=1000"]
    code = plan(*flags, INITIAL_CHECKPOINT_PATH=backbone, EVAL_PERIOD=0)
    said = capsys.readouterr().out
    assert code == 1
    assert "lacks" in said and "REMAT = 'light'" in said and "BATCH_SIZE = 16" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "say where: --topology"),
        (["--topology=v9:1"], "a topology is written v5e"),
        (["--topologies=v9", "--model=tiny"], "there are plans for v5e, v5p, v6e"),
        (["--topology=here", "--model=tiny", "--mesh=3x1"], "a mesh of 3x1 does not fill 8 chips"),
        (["--topology=here", "--model=tiny", "--gin.BATCH_SIZE=9"], "batch of 9 rows cannot be"),
    ],
)
def test_what_cannot_be_planned(more, words, capsys):
    assert plan(*more, MESH="8x1") == 2
    assert words in capsys.readouterr().err


GIB = 2**30
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs TPU's compiler: pip install 'spot-jax[tpu]'",
)


def planned_for_tpu(capsys, monkeypatch, model, topology, *flags, **settings):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    settings = {
        "PARAMETER_DTYPE": "bfloat16",
        "TASK_FEATURE_LENGTHS": {"inputs": 412, "targets": 16},
        "PROMPT_LENGTH": 100,
        "EVAL_PERIOD": 0,
        **settings,
    }
    place = [f"--model={model}", f"--topology={topology}", *flags]
    code, (each,) = planned(capsys, *place, **settings)
    assert code == 0 and each["fits"]
    return each, each["train"]["operations"] / each["bound"]


@pytest.mark.slow
@needs_libtpu
def test_base_needs_little_of_one_v5e_chip(capsys, monkeypatch):
    base = capsys, monkeypatch, "t5_1_1_base", "v5e:1x1"
    each, operations = planned_for_tpu(*base, "--exact")
    assert each["exact"]
    assert 0.4 < each["weights"] / GIB < 0.6
    assert each["train"]["temporaries"] < 3 * GIB
    assert operations < 1.4
    assert not each["train"]["collectives"]
    # With little effort a little more is needed, for the same work.
    quick, again = planned_for_tpu(*base)
    assert not quick["exact"]
    assert 1.0 <= quick["needed"] / each["needed"] < 1.1
    assert again == operations


@pytest.mark.slow
@needs_libtpu
def test_xxl_on_eight_v5e_chips_recomputes_and_sends_little(capsys, monkeypatch):
    halves = {"train.num_microbatches": 2}
    each, operations = planned_for_tpu(capsys, monkeypatch, "t5_1_1_xxl", "v5e:2x4", **halves)
    assert each["mesh"] == "1x8"
    assert each["needed"] < 5 * GIB
    assert operations < 1.2
    # No more than 16 GiB of all-reduce, each of which is sent twice, to be summed and to be known.
    traffic = each["train"]["collectives"]
    assert traffic["all-reduce"] + sum(traffic.values()) < 2 * 16 * GIB
    assert traffic["all-reduce"] < GIB


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("way", [{"train.num_microbatches": 2}, {"REMAT": True}])
def test_int8_xxl_fits_on_one_v5e_chip(capsys, monkeypatch, way):
    small = {"PARAMETER_DTYPE": "int8", "BATCH_SIZE": 8, **way}
    each, _ = planned_for_tpu(capsys, monkeypatch, "t5_1_1_xxl", "v5e:1x1", **small)
    assert each["needed"] < 15.75 * GIB


@pytest.mark.parametrize(
    ("message", "used"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 18.50G of 15.75G hbm.", 18.5),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (17.50G) exceeds available HBM (15.75G).",
            17.5,
        ),
        ("RESOURCE_EXHAUSTED: no more", None),
    ],
)
def test_what_is_used_is_read_from_the_compiler_s_words(message, used):
    from spot_jax.planning.plan import _used

    assert _used(message) == (None if used is None else used * GIB)

"""Runs of MSF, IST and Fastfood: what stays frozen, what is saved, going on, together and alone."""

import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from method_cases import backbone_of, program_on

from spot_jax.errors import SpotError
from spot_jax.methods.fastfood import FastfoodTuning
from spot_jax.methods.prompt_file import PromptFile
from spot_jax.methods.prompt_forms import load_prompt
from spot_jax.methods.prompt_tuning import PromptTuning
from spot_jax.methods.subspace_file import load_subspace
from spot_jax.methods.subspace_finding import SubspaceFinding
from spot_jax.methods.subspace_tuning import SubspaceTuning
from spot_jax.t5.backbone import load_backbone
from spot_jax.t5.stored import read_description
from spot_jax.training import run as run_module
from spot_jax.training.checkpoints import CheckpointPlan
from spot_jax.training.config import StoredBackbone
from spot_jax.training.metrics_log import read_metrics
from spot_jax.training.optimizers import AdamW
from spot_jax.training.sharding import MeshShape

ADAM = AdamW(0.01, weight_decay=0.0)
LENGTH = 4


def described(tiny):
    return read_description(epath.Path(tiny.backbone))


def mark(tiny):
    return described(tiny).fingerprint


def write(path, seed, length=LENGTH, width=16, **fields):
    prompt = np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)
    PromptFile(prompt, **fields).save(path)
    return str(path)


@pytest.fixture(scope="module")
def prompts(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored")
    return [
        write(directory / f"{i}.safetensors", i, task=f"t{i}", backbone=mark(tiny), step=5)
        for i in range(2)
    ]


@pytest.fixture
def watched(monkeypatch):
    """Every start's frozen tree, and a copy of what it was before the first step."""
    seen = []
    fit = run_module.fit

    def watching(state, frozen, *rest):
        seen.append((frozen, jax.tree.map(lambda x: np.array(x, copy=True), frozen)))
        return fit(state, frozen, *rest)

    monkeypatch.setattr(run_module, "fit", watching)
    return seen


def run(tiny, directory, steps, method, **options):
    data = tiny.data(options.pop("names", list(tiny.tasks)), batch_size=4)
    defaults = {"optimizer": ADAM, "checkpoints": CheckpointPlan(period=3), "data": data}
    return tiny.train(directory, steps, **{**defaults, "method": method, **options})


@pytest.fixture(scope="module")
def msf_run(tiny, prompts, tmp_path_factory):
    """A run of MSF over two tasks, and the method it was given."""
    method = SubspaceFinding(prompts, dim=3, width=5)
    return run(tiny, tmp_path_factory.mktemp("found") / "run", 5, method), method


def subspace_path(result):
    return str(result.directory / "prompts" / "subspace-last-0.safetensors")


def saved_leaves(result):
    """Paths of what the newest checkpoint holds on disk, but for steps, keys and counts."""
    step = result.directory / "checkpoints" / str(result.step)
    tree = ocp.StandardCheckpointer().metadata(step / "state").item_metadata.tree
    leaves = {
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {name: shape for name, shape in leaves.items() if name.startswith("trainable")}, leaves


def test_msf_goes_on_as_if_it_had_not_stopped(tiny, msf_run, tmp_path, watched):
    whole, method = msf_run
    run(tiny, tmp_path / "parts", 3, method)
    parts = run(tiny, tmp_path / "parts", 5, method)
    in_one, in_parts = (load_subspace(subspace_path(result)) for result in (whole, parts))
    jax.tree.map(np.testing.assert_array_equal, in_one.proj, in_parts.proj)
    jax.tree.map(np.testing.assert_array_equal, in_one.proj_b, in_parts.proj_b)
    logs = [[line["train/loss"] for line in read_metrics(r.directory)] for r in (whole, parts)]
    assert logs[0] == logs[1]
    assert len(watched) == 2
    for live, before in watched:
        assert set(live) > {"stored_prompts", "encoder"}
        jax.tree.map(np.testing.assert_array_equal, live, before)


def test_msf_saves_proj_and_proj_b_and_writes_them_once(msf_run, prompts):
    result, _ = msf_run
    trained, leaves = saved_leaves(result)
    assert trained == {
        "trainable/proj/kernel": (LENGTH * 16, 3),
        "trainable/proj/bias": (3,),
        "trainable/proj_b/hidden/kernel": (3, 5),
        "trainable/proj_b/hidden/bias": (5,),
        "trainable/proj_b/prompt/kernel": (5, LENGTH * 16),
        "trainable/proj_b/prompt/bias": (LENGTH * 16,),
    }
    # Two moments of each, the step, the keys, and the optimizer's counts.
    assert len([name for name in leaves if "proj" in name]) == 3 * len(trained)
    assert not any("stored_prompts" in name or "encoder" in name for name in leaves)
    files = sorted(path.name for path in (result.directory / "prompts").iterdir())
    assert files == [f"{n}.safetensors" for n in ("last-0", "last-1", "subspace-last-0")]
    subspace = load_subspace(subspace_path(result))
    assert (subspace.step, subspace.tasks) == (5, ("t0", "t1"))
    for i, path in enumerate(prompts):
        again = load_prompt(result.prompts[i])
        expected = subspace.reconstruct(load_prompt(path).prompt)
        np.testing.assert_allclose(again.prompt, expected, rtol=1e-4, atol=1e-6)
        assert (again.ancestry[0]["file"], again.ancestry[0]["task"]) == (path, f"t{i}")
    # By default prompts are measured in their own root mean square.
    both = np.stack([load_prompt(path).prompt for path in prompts])
    assert subspace.shape.scale == pytest.approx(np.sqrt(np.mean(both**2)))
    errors = [line["train/reconstruction"] for line in read_metrics(result.directory)]
    assert np.shape(errors) == (5, 2)
    assert np.mean(errors[-1]) < np.mean(errors[0])


def ist(tiny, msf_run, directory, steps, **options):
    method = SubspaceTuning(subspace_path(msf_run[0]), std=0.5)
    return run(tiny, directory, steps, method, **{"seeds": [7, 8], **options})


@pytest.mark.slow
def test_vectors_tuned_together_go_as_alone(tiny, msf_run, tmp_path, watched):
    both = ist(tiny, msf_run, tmp_path / "both", 5)
    assert saved_leaves(both)[0] == {"trainable/vector": (2, 3)}
    for i in range(2):
        alone = ist(tiny, msf_run, tmp_path / f"{i}", 5, names=tiny.tasks[i], seeds=7 + i)
        joint, single = load_prompt(both.prompts[i]), load_prompt(alone.prompts[0])
        vectors = joint.tensors["vector"], single.tensors["vector"]
        np.testing.assert_allclose(*vectors, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(joint.prompt, single.prompt, rtol=1e-4, atol=1e-5)
    for live, before in watched:
        assert "proj_b" in live
        jax.tree.map(np.testing.assert_array_equal, live, before)


@pytest.mark.slow
def test_ist_goes_on_as_if_it_had_not_stopped(tiny, msf_run, tmp_path):
    options = {"backbone": StoredBackbone(tiny.backbone, dropout_rate=0.1)}
    whole = ist(tiny, msf_run, tmp_path / "whole", 5, **options)
    ist(tiny, msf_run, tmp_path / "parts", 3, **options)
    parts = ist(tiny, msf_run, tmp_path / "parts", 5, **options)
    for in_one, in_parts in zip(whole.prompts, parts.prompts, strict=True):
        np.testing.assert_array_equal(load_prompt(in_one).prompt, load_prompt(in_parts).prompt)


def test_a_run_goes_on_with_the_very_files_it_began_with(tiny, msf_run, prompts, tmp_path):
    path = tmp_path / "subspace"
    subspace = load_subspace(subspace_path(msf_run[0]))
    subspace.save(path)
    method = SubspaceTuning(str(path))
    run(tiny, tmp_path / "ist", 1, method)
    bent = jax.tree.map(lambda x: x + 1e-3, subspace.proj_b)
    dataclasses.replace(subspace, proj_b=bent).save(path)
    with pytest.raises(SpotError, match="holds a run with subspace = .* choose another MODEL_DIR"):
        run(tiny, tmp_path / "ist", 2, method)
    programs = [
        program_on(SubspaceFinding(p, 3), loaded(tiny), 2) for p in (prompts, prompts[::-1])
    ]
    marks = [program.method.content_marks(program.tasks)["prompts"] for program in programs]
    assert marks[0] != marks[1]


def test_a_prompt_beside_another_s_data_is_refused(tiny, tmp_path):
    paths = [
        write(tmp_path / f"{i}", i, task=tiny.tasks[1 - i], backbone=mark(tiny)) for i in range(2)
    ]
    with pytest.raises(SpotError, match="give the prompts and MIXTURE_OR_TASK_NAME in the same"):
        run(tiny, tmp_path / "run", 1, SubspaceFinding(paths, dim=3))


@pytest.mark.slow
def test_msf_on_a_mesh_is_msf_on_one_device(tiny, msf_run, tmp_path, watched):
    result = run(tiny, tmp_path / "mesh", 5, msf_run[1], mesh=MeshShape(data=2, model=2))
    sharded, unsharded = (load_subspace(subspace_path(r)) for r in (result, msf_run[0]))
    for a, b in zip(
        jax.tree.leaves(sharded.proj_b), jax.tree.leaves(unsharded.proj_b), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    (frozen, _) = watched[0]
    assert len(frozen["stored_prompts"].sharding.device_set) == 4


def loaded(tiny, **changes):
    """What methods look at of a backbone."""
    description = described(tiny)
    params = load_backbone(tiny.backbone).params
    backbone = backbone_of(params, dataclasses.replace(description.config, **changes))
    backbone.fingerprint = description.fingerprint
    return backbone


def starts(method, tiny, count):
    """What `start` returns for each prompt."""
    backbone = loaded(tiny)
    program = program_on(method, backbone, count)
    return [program.method.start(jax.random.key(0), backbone, task) for task in program.tasks]


def test_a_vector_begins_where_a_stored_prompt_is(tiny, msf_run, prompts, tmp_path):
    path = subspace_path(msf_run[0])
    subspace = load_subspace(path)
    method = SubspaceTuning(path, init="prompt", prompt=prompts)
    for start, file in zip(starts(method, tiny, 2), prompts, strict=True):
        place = subspace.project(load_prompt(file).prompt)
        np.testing.assert_array_equal(start["vector"], place)
    # A prompt that was tuned in this very subspace begins from its own vector.
    tuned = tmp_path / "own.safetensors"
    vector = np.array([0.5, -1.0, 2.0], np.float32)
    program = program_on(method, loaded(tiny), 2)
    described = method.describe(config=program.config, tasks=program.tasks, i=0)
    write(tuned, 3, tensors={"vector": vector}, method=described, backbone=mark(tiny))
    (start,) = starts(SubspaceTuning(path, init="prompt", prompt=str(tuned)), tiny, 1)
    np.testing.assert_array_equal(start["vector"], vector)
    # And prompt tuning begins from what IST wrote.
    (start,) = starts(PromptTuning(length=LENGTH, init="prompt", prompt=str(tuned)), tiny, 1)
    np.testing.assert_array_equal(start["prompt"], load_prompt(tuned).prompt)


def test_a_random_subspace_is_of_its_seed(tiny):
    method = SubspaceTuning("random", dim=3, length=LENGTH, width=5, scale=2.0)
    backbone = loaded(tiny)
    seeded = [dataclasses.replace(method, subspace_seed=seed) for seed in (0, 0, 1)]
    first, again, other = (each.freeze(backbone, [])["proj_b"] for each in seeded)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.any(first["prompt"]["kernel"] != other["prompt"]["kernel"])
    program = program_on(method, backbone, 2)
    shape = method.shape(backbone.config.emb_dim)
    assert (program.num_trained, shape.dim, shape.scale) == (2, 3, 2.0)
    about = method.describe(config=program.config, tasks=program.tasks, i=0)
    assert about["subspace"] == {"random": 0}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"keep": 1}, "the prompts of at least 2 tasks, found 1; give more files"),
        ({"length": 5}, "of one length, but .*0.safetensors has 4 rows and .* has 5"),
        ({"width": 8}, "a prompt of width 8 cannot go with this backbone of width 16"),
        ({"backbone": "cd" * 32}, "tuned on another backbone .fingerprint cdcdcdcdcdcd"),
        ({"method": {"name": "FastfoodTuning"}}, "tuned by FastfoodTuning, whose prompt is not"),
        ({"dim": 65}, "of 65 dimensions was asked for, but a prompt has 64 numbers"),
        ({"scale": "max"}, "the scale is a number or 'rms', found 'max'"),
    ],
)
def test_prompts_that_no_subspace_is_found_from(changes, match, tiny, prompts, tmp_path):
    changes = dict(changes)
    settings = {name: changes.pop(name) for name in ("dim", "scale") if name in changes}
    paths = prompts[: changes.pop("keep", 2)]
    if changes:
        paths = [prompts[0], write(tmp_path / "odd", 1, **{"backbone": "", **changes})]
    with pytest.raises(SpotError, match=match) as caught:
        program_on(SubspaceFinding(paths, **{"dim": 3, **settings}), loaded(tiny), len(paths))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        ({"length": 9}, "Proj_b of length 4 where length 9 is expected"),
        ({"dim": 5}, "Proj_b of dim 3 where dim 5 is expected"),
        ({"emb_dim": 32}, "Proj_b of emb_dim 16 where emb_dim 32 is expected"),
        ({"init": "zeros"}, "unknown beginning 'zeros' of a vector; expected normal or prompt"),
        ({"init": "prompt"}, "init 'prompt' needs a prompt file"),
        ({"subspace": "random"}, "a random subspace needs its dimension"),
        ({"subspace": "random", "dim": 3, "init": "prompt", "prompt": 0}, "has no Proj"),
    ],
)
def test_a_vector_that_cannot_be_tuned(recipe, match, tiny, msf_run, prompts):
    recipe = dict(recipe)
    width = {"emb_dim": recipe.pop("emb_dim")} if "emb_dim" in recipe else {}
    if "prompt" in recipe:
        recipe["prompt"] = prompts[0]
    with pytest.raises(SpotError, match=match) as caught:
        method = SubspaceTuning(**{"subspace": subspace_path(msf_run[0]), **recipe})
        program_on(method, loaded(tiny, **width))
    assert "\n" not in str(caught.value)


def test_fastfood_tunes_one_vector_a_run(tiny):
    with pytest.raises(SpotError, match="tunes one vector a run, 2 were asked for"):
        program_on(FastfoodTuning(), loaded(tiny), 2)

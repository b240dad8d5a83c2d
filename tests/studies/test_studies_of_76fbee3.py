"""Studies that the code of commit 76fbee3 did still open, report, and go on as they began.

`studies_of_76fbee3.tar.xz` is what `spot study` and `spot intrinsic ist` left with tiny_study.gin
and tiny_intrinsic.gin, without what a finished study needs no longer.
"""

import json
import tarfile
from pathlib import Path

import pytest
from tiny_text import store_backbone

from spot_jax.cli.configurables import configured
from spot_jax.errors import SpotError
from spot_jax.library.library import Library
from spot_jax.studies.subspace.results import SubspaceResults
from spot_jax.studies.subspace.study import SubspaceStudy
from spot_jax.studies.transfer.results import TransferResults
from spot_jax.studies.transfer.study import TransferStudy

HERE = Path(__file__).parent
KINDS = {
    "study": ("study", "tiny_study.gin", TransferStudy, TransferResults),
    "intrinsic": ("intrinsic", "tiny_intrinsic.gin", SubspaceStudy, SubspaceResults),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return store_backbone(tmp_path_factory.mktemp("backbone") / "tiny_backbone")


@pytest.fixture(params=KINDS)
def old(request, tmp_path, backbone):
    """(plan of the study, its class, the class of its results)."""
    with tarfile.open(HERE / "studies_of_76fbee3.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    name, gin_file, study, results = KINDS[request.param]
    flags = {"STUDY_DIR": str(tmp_path / name), "BACKBONE": backbone}
    pairs = [(f"--gin.{key}", f"{key} = {value!r}") for key, value in flags.items()]
    plan_of, fields, _ = configured(name, [str(HERE / gin_file)], pairs)
    return plan_of(**fields), study, results


def test_an_old_study_has_the_same_results_and_lacks_only_what_is_new(old):
    plan, study_of, results_of = old
    before = results_of.read(plan.path)
    study = study_of(plan, look=True)
    lacking = [job for job in study.jobs if not study.is_done(job)]
    assert {job.kind for job in lacking} == {"no_prompt"} and len(study.jobs) > 2 * len(lacking)
    now = study.so_far()
    for name in ("scores", "seeds", "majority", "commands", "backbone", "metric"):
        assert getattr(now, name) == getattr(before, name), name
    for name in ("similarities", "curves", "references", "trained", "train_tasks"):
        assert getattr(now, name, None) == getattr(before, name, None), name
    assert now.no_prompt == {}


def test_an_old_study_goes_on_as_it_began(old, monkeypatch):
    plan, study_of, _ = old
    done = []

    def do(study, job, progress):
        assert not study.by_task  # its prompts of one seed begin alike
        done.append(job)
        return study.result_type(job.name, ())

    monkeypatch.setattr(study_of, "do", do)
    monkeypatch.setattr(study_of, "save", lambda study, job, result: None)
    study = study_of(plan)
    for job in study.jobs:
        study.run_job(job.name, lambda line: None)
    assert {job.kind for job in done} == {"no_prompt"}
    assert json.loads((plan.path / "study.json").read_text())["bound"] is False
    assert not (plan.path / "jobs").exists()


def test_results_without_their_study_are_not_trusted(old):
    plan, study_of, _ = old
    (plan.path / "study.json").unlink()
    with pytest.raises(SpotError, match="has results but no study.json") as refused:
        study_of(plan)
    assert "\n" not in str(refused.value)


def test_an_entry_of_an_old_library_has_the_id_that_it_gets_today(tmp_path):
    """Or adding a prompt again would store it twice."""
    with tarfile.open(HERE / "studies_of_76fbee3.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    library = Library(tmp_path / "study" / "library")
    before = {entry.id for entry in library.entries()}
    assert len(before) == 4 and library.verify() == []
    again = Library(tmp_path / "again")
    for id in before:
        again.add(*library.load(id))
    assert {entry.id for entry in again.entries()} == before

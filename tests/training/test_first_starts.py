"""Four processes that start a new run directory at the same moment, 200 times over."""

import json
import multiprocessing
import socket
import traceback

import pytest
from etils import epath

from spot_jax.errors import SpotError

COUNT, STARTS = 4, 200
DESCRIPTION = {
    "method": "PromptTuning",
    "method_settings": {},
    "seeds": [0],
    "lengths": {"inputs": 16, "targets": 4},
}


def start_again_and_again(number, way, work, address, barrier, results):
    """Begin runs as `train` does, each in a directory that is new to all."""
    from spot_jax.training import distributed
    from spot_jax.training.run_directory import (
        check_same_run,
        owned,
        run_path,
        write_environment,
    )

    def begin(directory):
        check_same_run(directory, DESCRIPTION)
        write_environment(directory)

    faults, refusals = [], 0
    if way == "joined":
        distributed.start(address, COUNT, number)
    for i in range(STARTS):
        barrier.wait()
        try:
            directory = run_path(f"{work}/{i}")
            if way == "at once":
                begin(directory)
                continue
            if way == "joined":
                distributed.check_one_directory(epath.Path(directory))
            with owned(directory):
                distributed.by_lead(lambda directory=directory: begin(directory))
        except SpotError as error:
            if way == "apart" and "is in use by another start (" in str(error):
                refusals += 1
            else:
                faults.append(str(error))
        except Exception:
            faults.append(traceback.format_exc())
    results.put((number, faults, refusals))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["joined", "apart", "at once"])
def test_200_first_starts_of_four_processes(way, tmp_path, monkeypatch):
    """Joined; apart, where one has the directory; and where nothing keeps them apart."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(COUNT, timeout=120), context.Queue()
    processes = [
        context.Process(
            target=start_again_and_again,
            args=(number, way, str(tmp_path), address, barrier, results),
        )
        for number in range(COUNT)
    ]
    for process in processes:
        process.start()
    reports = [results.get(timeout=240) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * COUNT
    assert [faults for _, faults, _ in sorted(reports)] == [[]] * COUNT
    # Of those apart at least one has each directory.
    assert sum(refusals for _, _, refusals in reports) <= (COUNT - 1) * STARTS
    for i in range(STARTS):
        assert json.loads((tmp_path / str(i) / "run.json").read_text()) == DESCRIPTION
        names = {path.name for path in (tmp_path / str(i)).iterdir()}
        assert names <= {"run.json", "environment.json", ".owner"}

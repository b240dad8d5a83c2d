"""A Ray cluster on this machine in a process of its own: `ray_nodes.py NODES`.

It prints its addresses, "HOST:PORT ray://HOST:PORT", then a line for each line that it reads:
"kill" kills a node at a job, without warning, and prints what the job was. It ends with its input.
"""

import os
import signal
import sys
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
for name, value in (("initial_delay", 1000), ("period", 500), ("timeout", 2000)):
    os.environ[f"RAY_health_check_{name}_ms"] = str(value)

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

EACH = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


def children(pid: int) -> dict[int, str]:
    """Command of each process that `pid` started, by its id."""
    commands = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it ended meanwhile
            continue
        if parent == pid:
            commands[int(directory.name)] = command
    return commands


def kill_one(nodes) -> str:
    """Kills a node at work, raylet and workers; the job that it did."""
    while True:
        for node in nodes:
            raylet = node.all_processes["raylet"][0].process.pid
            workers = children(raylet)
            busy = [c for c in workers.values() if c.startswith("ray::") and "-" in c]
            if busy:
                for pid in (raylet, *workers):
                    os.kill(pid, signal.SIGKILL)
                return busy[0].removeprefix("ray::")
        time.sleep(0.1)


def main(count: int, port: int) -> None:
    head = {"ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args={**EACH, **head})
    others = [cluster.add_node(**EACH) for _ in range(1, count)]
    print(cluster.address, f"ray://127.0.0.1:{port}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            print(kill_one(others), flush=True)
    # What was killed already cannot be shut down.
    for node in (*others, cluster.head_node):
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    ray._common.utils.reset_ray_address()  # which says where this machine's cluster is


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

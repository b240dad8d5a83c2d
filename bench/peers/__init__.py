"""Ours beside PEFT on the same arrays: `bench.peers` on a CPU, bench/gpu.py on a GPU."""

"""Studies of Intrinsic Prompt Tuning (Qin et al. 2021): a subspace of prompts, and tasks in it."""

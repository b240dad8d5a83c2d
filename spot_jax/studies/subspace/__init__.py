"""Studies of Intrinsic Prompt Tuning (Qin et al. 2021): subspaces of prompts, tasks in them."""

"""Studies of prompt transfer (Vu et al. 2022, section 3)."""

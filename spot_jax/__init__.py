"""Adapt one frozen T5 to many tasks with soft prompts; carry what one task learnt to the next.

Importing this package imports neither JAX nor TensorFlow; its modules import what they use.
"""

from spot_jax.version import __version__

__all__ = ["__version__"]

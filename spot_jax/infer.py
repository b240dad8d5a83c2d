"""`python -m spot_jax.infer RUN_DIR ...`: `spot infer` as T5X users type it."""

import sys

from spot_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))

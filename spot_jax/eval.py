"""`python -m spot_jax.eval RUN_DIR ...`: `spot eval` as T5X users type it."""

import sys

from spot_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))

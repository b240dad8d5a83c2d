"""`python -m spot_jax.train --gin_file=... --gin.NAME=value`: `spot train` as T5X users type it."""

import sys

from spot_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

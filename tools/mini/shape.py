"""What `mini` is: its shape and its vocabulary."""

from pathlib import Path

import spot_jax
from spot_jax.t5.config import T5Config

VOCABULARY = Path(spot_jax.__file__).parents[1] / "tasks" / "mini_spiece.model"


def config(dtype: str = "float32", *, scan_layers: bool = True) -> T5Config:
    """Return mini's configuration: 8.7 million parameters, 4 layers that read and 2 that write.

    Args:
        dtype: Type that activations are computed in.
        scan_layers: Whether the layers are one stack, as they are trained.
    """
    return T5Config(
        vocab_size=8192, emb_dim=256, num_heads=4, head_dim=64, mlp_dim=512, num_encoder_layers=4,
        num_decoder_layers=2, dropout_rate=0.0, scan_layers=scan_layers, attention="plain",
        dtype=dtype,
    )  # fmt: skip

"""Make hf.tar.xz: tiny random T5s as `transformers` saves them, with its logits and greedy tokens.

    pip install torch transformers
    python tests/t5/importing/hf_fixtures/make_hf_fixtures.py [NAME ...]

makes all of them, or these anew and leaves the others as they are in the archive.
Each directory of the archive is one model with an `expected.npz`: encoder_input_tokens [3, 10]
(0 = pad), decoder_input_tokens [3, 6], logits [3, 6, V] and greedy [3, 8] (start token cut off).
"""

import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

HERE = Path(__file__).parent
SHAPE = {
    "d_model": 16, "d_kv": 3, "num_heads": 4, "d_ff": 24, "num_layers": 2, "vocab_size": 64,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3}
# name -> (classes, changes to the shape, an output head of its own, save_pretrained's arguments).
# transformers 5 ties every head that it initialises, so both kinds are here.
MODELS = {
    "t5_1_0": (T5Config, T5ForConditionalGeneration, {}, False, {}),
    "t5_1_1": (T5Config, T5ForConditionalGeneration, GATED, True, {}),
    "t5_1_1_tied": (T5Config, T5ForConditionalGeneration, GATED, False, {}),
    "t5_1_1_sharded": (T5Config, T5ForConditionalGeneration, GATED, True,
                       {"max_shard_size": "20KB"}),
    "mt5": (MT5Config, MT5ForConditionalGeneration, {"vocab_size": 80}, True, {}),
    "mt5_tied": (MT5Config, MT5ForConditionalGeneration, {"vocab_size": 80}, False, {}),
    # As the released models: UL2 has gated SiLU, umT5 a relative position bias in every layer.
    "ul2": (T5Config, T5ForConditionalGeneration, {**GATED, "feed_forward_proj": "gated-silu"},
            True, {}),
    "umt5": (UMT5Config, UMT5ForConditionalGeneration,
             {**GATED, "vocab_size": 80}, True, {}),
}  # fmt: skip


def make(name: str, seed: int):
    config_class, model_class, changes, own_head, _ = MODELS[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**(SHAPE | changes))).eval()
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))
    for key, parameter in model.named_parameters():
        # Norms of one and weights of the right size would hide a mistake in either.
        if "layer_norm" in key:
            parameter.data *= 1 + 0.3 * torch.randn(parameter.shape)
        elif "relative_attention_bias" in key or "wo" in key:
            parameter.data += torch.randn(parameter.shape)
    return model


def expected(model) -> dict[str, np.ndarray] | None:
    """Return inputs and outputs; None if a near tie or a generated pad spoils them."""
    vocab = model.config.vocab_size
    tokens = torch.randint(2, vocab, (3, 10))
    tokens[1, 7:] = 0
    tokens[2, 3:] = 0
    decoder = torch.randint(2, vocab, (3, 6))
    decoder[:, 0] = 0
    mask = (tokens > 0).long()
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder).logits
        greedy = model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=8, use_cache=False,
            do_sample=False, num_beams=1, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    out = greedy.sequences[:, 1:].numpy()
    margins = torch.stack([s.topk(2).values.diff().abs().min() for s in greedy.scores])
    ended = np.cumsum(out == 1, axis=1) > 0
    if out.shape[1] != 8 or margins.min() < 1e-2 or ((out == 0) & ~ended).any():
        return None
    if min(len(set(row)) for row in out.tolist()) < 3:
        return None
    arrays = {"encoder_input_tokens": tokens, "decoder_input_tokens": decoder, "logits": logits}
    return {k: v.numpy() for k, v in arrays.items()} | {"greedy": out}


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if names:
            with tarfile.open(HERE / "hf.tar.xz") as archive:
                archive.extractall(folder, filter="data")
        for name in names or MODELS:
            for seed in range(500):
                model = make(name, seed)
                arrays = expected(model)
                if arrays is not None:
                    break
            directory = Path(folder) / name
            model.save_pretrained(directory, **MODELS[name][-1])
            np.savez(directory / "expected.npz", **arrays)
            files = sorted(p.name for p in directory.iterdir())
            print(name, "seed", seed, files, arrays["greedy"].tolist())
        with tarfile.open(HERE / "hf.tar.xz", "w:xz") as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    archive.add(path, path.relative_to(folder), filter=_plain)
    print((HERE / "hf.tar.xz").stat().st_size, "bytes")


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main(sys.argv[1:])

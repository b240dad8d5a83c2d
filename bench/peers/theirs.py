"""PEFT's side of a comparison: prompt tuning on transformers' T5, of random weights."""

from collections.abc import Sequence

import numpy as np
import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from transformers import T5Config as TheirConfig
from transformers import T5ForConditionalGeneration

from bench.peers.shapes import PROMPT
from spot_jax.t5.config import T5Config


def model(config: T5Config, device: str, dtype: torch.dtype, length: int = PROMPT) -> PeftModel:
    """Return a T5 of this shape with one encoder prompt of P rows, everything else frozen."""
    described = TheirConfig(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    # Built where it runs, in its dtype: XL in float32 on the host would take a minute.
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            base = T5ForConditionalGeneration(described)
    finally:
        torch.set_default_dtype(default)
    adapter = PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=length, num_transformer_submodules=1
    )
    return get_peft_model(base, adapter).to(device).train()


def padded(rows: Sequence[np.ndarray], fill: int = 0) -> torch.Tensor:
    """Return rows of ids as one tensor [rows, longest], int64, as transformers' collator does."""
    array = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for place, row in zip(array, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(array)


def write_padded(tuned: PeftModel, text: torch.Tensor, length: int) -> torch.Tensor:
    """Decode up to `length` tokens greedily for padded texts."""
    with torch.no_grad():
        return tuned.generate(
            input_ids=text,
            attention_mask=(text > 0).long(),
            do_sample=False,
            num_beams=1,
            max_new_tokens=length,
        )


class Step:
    """A training step on fixed arrays: forward, backward, AdamW on the prompt."""

    def __init__(self, tuned: PeftModel, arrays: dict, device: str):
        self.model = tuned
        text = torch.tensor(arrays["text"], dtype=torch.long, device=device)
        labels = torch.tensor(arrays["targets"], dtype=torch.long, device=device)
        self.batch = {"input_ids": text, "attention_mask": torch.ones_like(text), "labels": labels}
        trained = [p for p in tuned.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def __call__(self) -> torch.Tensor:
        """Do one step; the loss is left on the device."""
        loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


def write(tuned: PeftModel, arrays: dict, device: str, length: int) -> torch.Tensor:
    """Decode exactly `length` tokens greedily."""
    text = torch.tensor(arrays["text"], dtype=torch.long, device=device)
    with torch.no_grad():
        return tuned.generate(
            input_ids=text,
            attention_mask=torch.ones_like(text),
            do_sample=False,
            num_beams=1,
            min_new_tokens=length,
            max_new_tokens=length,
        )

"""Make peft.tar.xz and kernels.tar.xz: adapters as `peft` saves them, and the logits of their T5.

    pip install '.[reference]'
    python tests/library/peft_fixtures/make_peft_fixtures.py [peft | kernels]

The T5 is `t5_1_1` of tests/t5/importing/hf_fixtures. Each directory of an archive is an adapter
with `expected.npz`: encoder_input_tokens [3, 10] (0 = pad), decoder_input_tokens [3, 6], logits
[3, 6, V], and of soft prompts (peft) table [rows, d] as PEFT has it in memory. LoRA and IA3
(kernels) are at random numbers, where they do something.
"""

import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import T5ForConditionalGeneration

HERE = Path(__file__).parent
BACKBONE = HERE.parents[1] / "t5" / "importing" / "hf_fixtures" / "hf.tar.xz"
COMMON = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 5}
TASK = {"task_type": "SEQ_2_SEQ_LM"}
EVERY = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]
CONFIGS = {
    "peft": {
        "two_halves": PromptTuningConfig(**COMMON),
        "one_half": PromptTuningConfig(**COMMON, num_transformer_submodules=1),
        "p_tuning": PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    },
    "kernels": {
        "lora": LoraConfig(**TASK, r=3, lora_alpha=5),
        "rslora": LoraConfig(**TASK, r=2, lora_alpha=3, use_rslora=True, target_modules=EVERY),
        "ia3": IA3Config(**TASK),
    },
}


def main(archive_name: str) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(BACKBONE) as archive:
            archive.extractall(folder, filter="data")
        arrays = np.load(Path(folder) / "t5_1_1" / "expected.npz")
        tokens = torch.tensor(arrays["encoder_input_tokens"])
        decoder = torch.tensor(arrays["decoder_input_tokens"])
        for name, config in CONFIGS[archive_name].items():
            model = T5ForConditionalGeneration.from_pretrained(Path(folder) / "t5_1_1")
            model = get_peft_model(model, config).eval()
            for parameter in model.parameters() if archive_name == "kernels" else ():
                if parameter.requires_grad:
                    parameter.data += 0.1 * torch.randn_like(parameter)
            out = Path(folder) / "out" / name
            model.save_pretrained(out)
            (out / "README.md").unlink()
            config_file = out / "adapter_config.json"
            config_file.write_text(config_file.read_text().replace(folder + "/", ""))
            with torch.no_grad():
                logits = model(
                    input_ids=tokens, attention_mask=(tokens > 0).long(), decoder_input_ids=decoder
                ).logits
            arrays_of_kind = {}
            if archive_name == "peft":
                with torch.no_grad():
                    table = model.get_prompt_embedding_to_save("default")
                arrays_of_kind["table"] = table.numpy()
            np.savez(
                out / "expected.npz",
                encoder_input_tokens=tokens.numpy(),
                decoder_input_tokens=decoder.numpy(),
                logits=logits.numpy(),
                **arrays_of_kind,
            )
        with tarfile.open(HERE / f"{archive_name}.tar.xz", "w:xz") as archive:
            for path in sorted((Path(folder) / "out").rglob("*")):
                if path.is_file():
                    archive.add(path, path.relative_to(Path(folder) / "out"), filter=_plain)
    print((HERE / f"{archive_name}.tar.xz").stat().st_size, "bytes")


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.mode = 0o644
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    for name in sys.argv[1:] or CONFIGS:
        main(name)

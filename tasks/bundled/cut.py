"""How the files of this directory were made from the collected sets; kept to be checked and redone.

`python -m tasks.bundled.cut SOURCE` reads SOURCE/NAME.jsonl.xz (one JSON object a line) and writes
NAME.jsonl.xz, sets.json and SHA256SUMS here.
"""

import hashlib
import json
import lzma
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.bundled.sets import HERE, SETS, BundledSet
from tasks.bundled.splitting import group_splits

# A few lines of the SMS file are hundreds of messages run together by a stray quotation mark.
LONGEST = {"sms_spam": 1000}


def cut_set(item: BundledSet, source: Path) -> list[dict[str, Any]]:
    """Return the rows of one set with labels as words and our own `split`."""
    with lzma.open(source / f"{item.name}.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    longest = LONGEST.get(item.name, sys.maxsize)
    rows = [row for row in rows if all(len(row[field]) <= longest for field in item.fields)]
    for row in rows:
        row["label"] = row["label"].replace("_", " ").strip(" ?").lower()
        if "split" in row:
            row["split_at_origin"] = row.pop("split")
    for row, split in zip(rows, group_splits(rows, item.grouped_by), strict=True):
        row["split"] = split
    return rows


def main(source: Path, destination: Path = HERE) -> None:
    """Cut every set of `SETS` and write the labels, the sizes and the checksums."""
    described, sums = {}, []
    for item in SETS.values():
        rows = cut_set(item, source)
        sizes = Counter(row["split"] for row in rows)
        described[item.name] = {
            "examples": {split: sizes[split] for split in ("train", "validation", "test")},
            "labels": sorted({row["label"] for row in rows}),
        }
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        packed = lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
        (destination / f"{item.name}.jsonl.xz").write_bytes(packed)
        sums.append(f"{hashlib.sha256(packed).hexdigest()}  {item.name}.jsonl.xz\n")
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (destination / "sets.json").write_text(text, encoding="utf-8")
    (destination / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

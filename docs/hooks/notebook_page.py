"""The page of a notebook: its text, its code and the output that is saved in it."""

from __future__ import annotations

import base64
import json
from itertools import groupby
from pathlib import Path


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and the pictures in its output by the names that the Markdown has for them."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for kind, outputs in groupby(cell["outputs"], lambda output: output["output_type"]):
            if kind == "stream":
                text = "".join("".join(output["text"]) for output in outputs)
                parts.append(f"```text\n{text.rstrip()}\n```")
                continue
            for output in outputs:
                if "image/png" not in output.get("data", {}):
                    continue
                name = f"{path.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![The picture that this code draws]({name})")
    return "\n\n".join(parts) + "\n", pictures

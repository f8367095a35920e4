"""Compute the logits of exported files in a process that cannot import cnnzoo.

As a script it imports nothing of this project: `python -I standalone.py FORMAT FILE INPUTS OUTPUTS`. INPUTS is an .npz
file of images, and OUTPUTS the one for their logits.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np


def run_standalone(format_name: str, file: Path, batches: list[np.ndarray], *, python: str = sys.executable) -> list:
    """The logits of each batch of images, computed by `python` from the exported file alone."""
    inputs, outputs = file.parent / f"{file.name}.inputs.npz", file.parent / f"{file.name}.outputs.npz"
    np.savez(inputs, *batches)
    command = [python, "-I", __file__, format_name, file, inputs, outputs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    with np.load(outputs) as logits:
        return [logits[f"arr_{n}"] for n in range(len(batches))]


def main(format_name: str, file: str, inputs: str, outputs: str) -> None:
    """Run one file. Only the imports that its format needs work."""
    sys.modules["cnnzoo"] = None  # type: ignore[assignment]  # it is installed, but importing it now fails
    if format_name == "onnx":
        sys.modules["torch"] = None  # type: ignore[assignment]
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert "classes" in session.get_modelmeta().custom_metadata_map["cnnzoo"]

        def compute(images):
            return session.run(["logits"], {"images": images})[0]

    else:
        import torch

        if format_name == "pt2":
            extra_files = {"cnnzoo.json": ""}
            net = torch.export.load(file, extra_files=extra_files).module()
            assert "classes" in extra_files["cnnzoo.json"]
        else:
            net = torch._inductor.aoti_load_package(file)
            assert "classes" in net.get_metadata()["cnnzoo"]

        def compute(images):
            with torch.no_grad():
                return net(torch.from_numpy(images)).numpy()

    with np.load(inputs) as batches:
        np.savez(outputs, *(compute(batches[f"arr_{n}"]) for n in range(len(batches.files))))
    assert not any(name.startswith("cnnzoo.") for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])

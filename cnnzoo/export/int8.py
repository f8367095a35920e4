"""Quantization to 8-bit integers after training, by torchao's PT2E flow: convolutions and linear layers.

Weights have one scale per output channel. The ranges of the layers' inputs are observed on training images; they are
static, so no ranges are computed when the network runs.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cnnzoo.data import Augment
from cnnzoo.data.datamodule import DataModule
from cnnzoo.export.formats import quiet
from cnnzoo.export.program import export_program

CALIBRATION_IMAGES = 512
MAX_DIFFERENCE = 0.2
"""The largest difference between a file and the quantized network, as a fraction of the largest logit. Where values are
rounded depends on the kernels, and one step of a quantized value changes those after it."""


def quantize(net: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """A network with the same interface whose convolutions and linear layers are quantized, for batches of any size.

    net: in evaluation mode, on the CPU.
    batches: images (N, C, H, W) float32, N of at least 2, from which the ranges are taken.

    The result computes in float32 what the kernels of oneDNN and onnxruntime compute in integers. On a CPU without the
    instructions for 8-bit products (VNNI), the inputs of layers have 7 bits: with 8 bits, the kernels would overflow.
    """
    with quiet("torch.utils._pytree"):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # here: of an extra
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=not has_vnni()))
        # Only strict export tells apart the calls of a ReLU that a block uses twice, which the quantizer needs.
        program = export_program(net, batches[0], strict=True)
        observed = prepare_pt2e(program.module(), quantizer)
        with torch.no_grad():
            for images in batches:
                observed(images)
        quantized = convert_pt2e(observed)
    used = {node.target for node in quantized.graph.nodes if node.op == "get_attr"}
    for name, _ in list(quantized.named_parameters()):
        if name not in used:  # the weights in float32, which would be saved as well
            module, _, attribute = name.rpartition(".")
            delattr(quantized.get_submodule(module), attribute)
    return quantized


def calibration_batches(data: DataModule) -> Iterator[Tensor]:
    """Training images in random order, not augmented, as the network takes them; at most `CALIBRATION_IMAGES`."""
    augment = Augment(eval_resize=data.preprocess["eval_resize"], mean=data.resolved_mean, std=data.resolved_std)
    loader = data.variant(resolved_augment=augment).build_loader("train")
    try:
        for count, batch in enumerate(loader, start=1):
            yield data.on_after_batch_transfer(batch, 0)[0]
            if count * data.batch_size >= CALIBRATION_IMAGES:
                return
    finally:
        loader.close()


def has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit integers without overflow."""
    return bool(torch.cpu._is_vnni_supported())

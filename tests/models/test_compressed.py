"""`pack` and `unpack`: the same weights come back, and a damaged file is an error."""

import json
import zlib

import pytest
import torch
from safetensors.torch import save_file

from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.compressed import MAX_PARAMETERS, pack, unpack


def shared_weights(shape, *, density, values, seed=0):
    """Weights with `values` different values, and zeros elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(values, generator=generator).half().float()
    codes = torch.randint(values, shape, generator=generator)
    return codebook[codes] * (torch.rand(shape, generator=generator) < density)


@pytest.fixture
def state():
    return {
        "conv.weight": shared_weights((16, 8, 3, 3), density=0.3, values=31),
        "conv.bias": torch.randn(16),
        "norm.running_var": torch.tensor([1e-9, 1.0, 1e6]),
        "norm.num_batches_tracked": torch.tensor(70_000),
        "fc.weight": shared_weights((10, 4000), density=0.002, values=200),
    }


@pytest.fixture
def packed(state):
    return pack(state, ["conv.weight", "fc.weight"])


def test_unpack_returns_what_was_packed(state, packed):
    tensors, metadata = packed
    result = unpack(tensors, {"compressed": metadata})
    assert result.keys() == state.keys()
    for name in ("conv.weight", "fc.weight", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(result[name], state[name]), name
        assert result[name].dtype == state[name].dtype
    torch.testing.assert_close(result["conv.bias"], state["conv.bias"], rtol=1e-3, atol=0)


def test_pack_stores_float32_if_float16_overflows(packed):
    tensors, _ = packed
    assert tensors["conv.bias"].dtype == torch.float16
    assert tensors["norm.running_var"].dtype == torch.float32


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_pack_without_zeros_and_of_zeros_alone(density):
    state = {"fc.weight": shared_weights((3, 700), density=density, values=256)}
    tensors, metadata = pack(state, ["fc.weight"])
    assert torch.equal(unpack(tensors, {"compressed": metadata})["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 509, 510, 511, 5000])
def test_pack_keeps_gaps_of_any_length(gap):
    weight = torch.zeros(1, gap + 2)
    weight[0, gap], weight[0, gap + 1] = 0.5, -0.5
    tensors, metadata = pack({"w": weight}, ["w"])
    assert torch.equal(unpack(tensors, {"compressed": metadata})["w"], weight)


def test_pack_comes_close_to_the_entropy():
    density, bits = 0.3, 5
    weight = shared_weights((200_000,), density=density, values=2**bits)
    tensors, _ = pack({"w": weight}, ["w"])
    p = torch.tensor([1 - density, density])
    entropy = float(-(p * p.log2()).sum()) + density * bits  # bits per weight
    size = sum(len(tensors[f"w.{part}"]) for part in ("codes", "gaps"))
    assert size < 1.03 * entropy * weight.numel() / 8


def test_pack_of_too_many_values_is_an_error():
    with pytest.raises(ValueError, match="w has 300 different values, expected at most 256"):
        pack({"w": torch.arange(1.0, 301.0)}, ["w"])


def deflate(values):
    coder = zlib.compressobj(wbits=-15)
    return torch.frombuffer(bytearray(coder.compress(bytes(values)) + coder.flush()), dtype=torch.uint8)


DAMAGE = {
    "other format": (lambda t, m: m.update(format=2), "format"),
    "no format": (lambda t, m: m.clear(), "format"),
    "no shapes": (lambda t, m: m.pop("shapes"), "shapes"),
    "negative shape": (lambda t, m: m["shapes"].update({"fc.weight": [-10, -4000]}), "shapes"),
    "shape of floats": (lambda t, m: m["shapes"].update({"fc.weight": [10.0, 4000]}), "shapes"),
    "huge shape": (lambda t, m: m["shapes"].update({"fc.weight": [10**6, 10**6]}), "claims to have"),
    "smaller shape": (lambda t, m: m["shapes"].update({"fc.weight": [10, 400]}), "fc.weight"),
    "missing": (lambda t, m: t.pop("fc.weight.codes"), "fc.weight.codes is missing"),
    "truncated": (lambda t, m: t.update({"fc.weight.codes": t["fc.weight.codes"][:-3]}), "fc.weight"),
    "fewer codes": (lambda t, m: t.update({"fc.weight.codes": deflate([1, 2])}), "do not fit together"),
    "code out of range": (
        lambda t, m: t.update({"fc.weight.codes": deflate([255]), "fc.weight.gaps": deflate([0])}),
        "out of range",
    ),
    "position out of range": (
        lambda t, m: t.update({"fc.weight.codes": deflate([0]), "fc.weight.gaps": deflate([255] * 200 + [0])}),
        "out of range",
    ),
    "bomb": (lambda t, m: t.update({"fc.weight.gaps": deflate(bytes(10**8))}), "do not end"),
    "floats": (lambda t, m: t.update({"fc.weight.codes": torch.zeros(4)}), "bytes"),
    "codebook": (lambda t, m: t.update({"fc.weight.codebook": torch.zeros(2, 2)}), "codebook"),
    "trailing": (lambda t, m: t.update({"fc.weight.gaps": torch.cat([t["fc.weight.gaps"]] * 2)}), "do not end"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_unpack_of_a_damaged_file_is_an_error(damage, packed):
    tensors, metadata = packed
    change, message = DAMAGE[damage]
    change(tensors, metadata)
    with pytest.raises(ValueError, match=message):
        unpack(tensors, {"compressed": metadata})


def test_create_model_from_a_damaged_file_is_a_user_error(tmp_path, packed):
    tensors, metadata = packed
    del tensors["fc.weight.gaps"]
    path = tmp_path / "network.safetensors"
    save_file(tensors, path, {"cnnzoo": json.dumps({"model": {"name": "lenet5"}, "compressed": metadata})})
    with pytest.raises(UserError, match=r"network.safetensors is damaged \(the tensor fc.weight.gaps is missing\)"):
        create_model("lenet5", weights=path)


def test_unpack_limits_the_memory_of_all_weights_together(packed):
    tensors, metadata = packed
    metadata["shapes"] |= {f"w{n}": [MAX_PARAMETERS // 2 + 1] for n in range(2)}
    with pytest.raises(ValueError, match="claims to have"):
        unpack(tensors, {"compressed": metadata})

"""torch.hub lists, describes and builds every model, with only torch and torchvision installed."""

from inspect import signature
from pathlib import Path

import pytest
import torch

import hubconf
from cnnzoo.errors import UserError
from cnnzoo.models import info, list_models
from tests.helpers import ROOT
from tests.helpers.networks_alone import run_networks_alone

REPOSITORY = "owner/cnnzoo"


@pytest.fixture
def cached_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put this checkout in the cache of torch.hub, because `torch.hub.list` and `help` accept only repositories."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *args, **kwargs: str(ROOT))


def load(name: str, **arguments: object) -> torch.nn.Module:
    return torch.hub.load(str(ROOT), name, source="local", **arguments)


@pytest.mark.usefixtures("cached_repository")
def test_hub_lists_only_the_models() -> None:
    assert sorted(torch.hub.list(REPOSITORY, trust_repo=True)) == sorted(list_models())


@pytest.mark.usefixtures("cached_repository")
def test_hub_help_has_the_facts() -> None:
    for name in list_models():
        text, facts = torch.hub.help(REPOSITORY, name, trust_repo=True), info(name)
        assert text.startswith(f'{name}, from "{facts.paper.title}" ({facts.paper.year}'), name
        assert f"{facts.parameters:,} parameters" in text, name
        assert f"(N, {facts.in_channels}, {facts.input_size}, {facts.input_size})" in text, name
        assert facts.accuracy is None or facts.accuracy.source in text, name
        assert all(f"'{member}'" in text for member in facts.weights), name
        assert ("'DEFAULT'" in text) == bool(facts.weights), name
        assert ('"small"' in text) == (facts.small_min_size is not None), name


ALL_MODELS = [pytest.param(name, marks=pytest.mark.zoo, id=f"{name}-zoo") for name in list_models()]


@pytest.mark.parametrize("name", ["lenet5", "resnet50", "fractalnet20", *ALL_MODELS])
def test_hub_builds_every_model(name: str) -> None:
    with torch.device("meta"):
        net = load(name, in_channels=info(name).in_channels)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == info(name).parameters


def test_hub_passes_arguments(tmp_path: Path) -> None:
    net = load("densenet_40_12", num_classes=7, in_channels=1, stem="small", growth_rate=4)
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 7)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    loaded = load("densenet_40_12", num_classes=7, in_channels=1, stem="small", growth_rate=4, weights=file)
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in net.state_dict().items())
    with pytest.raises(UserError, match="IMAGENET1K_V9"):
        load("resnet18", weights="IMAGENET1K_V9")


def test_docstring_says_which_functions_take_a_directory() -> None:
    """`torch.hub.load` alone has the argument `source`."""
    taking = [name for name in ("load", "list", "help") if "source" in signature(getattr(torch.hub, name)).parameters]
    assert taking == ["load"]
    assert "Neither takes a directory" in (hubconf.__doc__ or "")


def test_networks_need_only_torch_and_torchvision(tmp_path: Path) -> None:
    """The networks, also through torch.hub, in a process that has no other package than the two require."""
    families = run_networks_alone(ROOT, tmp_path).split()
    assert families == sorted({info(name).family for name in list_models()})

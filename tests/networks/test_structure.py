from __future__ import annotations

from functools import cache

import pytest
import torch

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.analysis.structure import Block, Link, block_outputs, trace_blocks
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec

VIT = "vit-vit_tiny_patch16_224"


@cache
def built(name: str, **more: int) -> Network:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec.model_validate({"name": name, **more}), channels=1, classes=2).eval()


def sources(blocks: tuple[Block, ...]) -> dict[str, set[str]]:
    return {block.name: {link.source for link in block.inputs} for block in blocks}


def test_a_unet_has_its_published_sizes_and_skips():
    """Each scale of a U-Net has half the size and twice the channels, and each decoder block sees its own scale."""
    blocks = trace_blocks(built("unet", width=8, depth=3), (1, 32, 48))
    shapes = {block.name: block.shape for block in blocks}
    stages = ["encoder.stem", "encoder.0", "encoder.1", "encoder.2"]
    assert [shapes[name] for name in stages] == [(8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6)]
    assert shapes["head"] == (2, 32, 48)
    assert sources(blocks)["encoder.stem"] == {"image"}
    for index, (skip, before) in enumerate(zip(stages[-2::-1], ["encoder.2", "decoder.0", "decoder.1"], strict=True)):
        assert sources(blocks)[f"decoder.{index}"] == {skip, before}
        assert shapes[f"decoder.{index}"] == shapes[skip]


@pytest.mark.parametrize("name", ["resunet", pytest.param(VIT, marks=pytest.mark.slow)])
def test_blocks_hold_all_parameters(name: str):
    """No parameter is counted twice or left out: the blocks' numbers add up to the network's."""
    network = built(name, **({"side_px": 32} if name == VIT else {"width": 8}))
    blocks = trace_blocks(network, (1, 32, 32))
    assert sum(block.parameters for block in blocks) == sum(p.numel() for p in network.parameters())
    assert {block.leaf for block in blocks} == {"", *network.parts}


def test_a_style_vector_is_told_from_a_skip():
    """What reaches Cellpose's decoder by the averaged style only is marked so, and its skips are not."""
    blocks = {block.name: block for block in trace_blocks(built("cellpose", width=8), (1, 32, 32))}
    assert blocks["decoder.0"].inputs == (Link("encoder.2", averaged=False),)
    assert set(blocks["decoder.2"].inputs) == {
        Link("encoder.0", averaged=False),
        Link("encoder.2", averaged=True),
        Link("decoder.1", averaged=False),
    }


@pytest.mark.slow
def test_a_transformer_feeds_its_decoder_from_all_quarters():
    """The dense decoder of a ViT takes each quarter of the blocks, and the image itself at the finest scale."""
    blocks = trace_blocks(built(VIT, side_px=32), (1, 32, 32))
    actual = sources(blocks)
    assert actual["decoder.0"] == {"encoder.3"}
    assert [actual[f"decoder.{n}"] - {f"decoder.{n - 1}"} for n in (1, 2, 3, 4)] == [
        {"encoder.2"}, {"encoder.1"}, {"encoder.0"}, {"image"},
    ]  # fmt: skip
    assert "3 attention" in blocks[1].layers


@pytest.mark.slow
def test_decoders_without_a_list_of_blocks_are_told_by_their_children():
    """A feature pyramid network shows its pyramid, top down, and its head takes what is merged."""
    actual = sources(trace_blocks(built("fpn-mobilenet_v2"), (1, 64, 64)))
    assert actual["decoder.p4"] == {"decoder.p5", "encoder.2"}
    assert actual["head"] == {f"decoder.seg_blocks.{n}" for n in range(4)}


@pytest.mark.slow
def test_tokens_count_as_maps():
    """The tokens inside DPT's decoder have the size of the grid of patches."""
    blocks = trace_blocks(built("dpt-tu-vit_tiny_patch16_224"), (1, 224, 224))
    assert {b.shape[1:] for b in blocks if "projection" in b.name} == {(14, 14)}


def test_looking_changes_nothing_and_gives_what_the_network_gives():
    """Weights, statistics and modes are as before, and the head's output is the network's."""
    network = built("resunet", width=8)
    network.encoder.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    blocks = trace_blocks(network, (1, 32, 32))
    with rng.scope(1, "test"), torch.inference_mode():
        images = torch.randn(2, 1, 32, 32)
        actual = block_outputs(network, blocks, images)
        assert network.encoder.training and not network.decoder.training
        assert torch.equal(actual["head"], network.eval()(images))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for block in blocks:
        assert tuple(actual[block.name].shape[1:]) == block.shape


def test_a_size_that_does_not_fit_is_refused():
    """The error names the size instead of ending inside torch."""
    with pytest.raises(SegueError, match="33x40 px"):
        trace_blocks(built("unet", width=8), (1, 33, 40))

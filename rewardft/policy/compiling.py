"""The denoiser compiled by torch (`train.compile`), block by block.

Blocks of one kind share their code, so one of them is compiled for all (regional compilation): it
takes a fraction of the time that the whole network would, and runs as fast on most.
"""

from __future__ import annotations

from torch import nn


def compile_blocks(module: nn.Module) -> list[nn.Module]:
    """Compile the repeated blocks of `module`, or all of it where it names none; returns what is
    compiled, when it is first called. Names of weights stay as they are.

    Call it with the adapter in place: what is put inside a compiled block later is not seen.
    """
    from torch._dynamo import config

    # One code is compiled for each width of a U-Net's blocks, with and without a gradient, the
    # adapter and guidance; at torch's limit of 8 the rest would run uncompiled.
    config.recompile_limit = max(config.recompile_limit, 64)
    regions = repeated_blocks(module) or [module]
    for region in regions:
        region.compile()
    return regions


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks that diffusers' networks call `_repeated_blocks`."""
    names = set(getattr(module, "_repeated_blocks", None) or ())
    return [block for block in module.modules() if type(block).__name__ in names]

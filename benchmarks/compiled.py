"""`train.compile` by family: how much faster a call of the denoiser is, and what compiling costs.

    python benchmarks/compiled.py                      # on a CPU, one thread
    python benchmarks/compiled.py --device cuda --dtype bfloat16

Random weights with a LoRA of rank 4, in sizes that a CPU holds; `--width` multiplies them. As it is
and compiled take calls in turn, and the least time of each counts: processor seconds on a CPU,
seconds on a GPU. `difference` is the largest between the two outputs, beside the largest output.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from rewardft.policy.compiling import compile_blocks

Call = Callable[[nn.Module], Tensor]
TOKENS = 77


def unet(width: int) -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64 * width, 128 * width, 256 * width, 256 * width),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=256,
    )
    shapes = {"sample": (4, 32, 32), "encoder_hidden_states": (TOKENS, 256)}
    return network, shapes


def sd3(width: int) -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=32,
        num_layers=6,
        attention_head_dim=64,
        num_attention_heads=4 * width,
        joint_attention_dim=256,
        caption_projection_dim=256 * width,
        pooled_projection_dim=256,
        in_channels=4,
        out_channels=4,
    )
    shapes = {
        "hidden_states": (4, 32, 32),
        "encoder_hidden_states": (TOKENS, 256),
        "pooled_projections": (256,),
    }
    return network, shapes


def flux(width: int) -> tuple[nn.Module, dict[str, Any]]:
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=4 * width,
        joint_attention_dim=256,
        pooled_projection_dim=256,
        axes_dims_rope=(16, 24, 24),
    )
    shapes = {
        "hidden_states": (256, 16),
        "encoder_hidden_states": (TOKENS, 256),
        "pooled_projections": (256,),
    }
    return network, shapes


FAMILIES = {"unet": unet, "sd3": sd3, "flux": flux}


def with_adapter(network: nn.Module) -> nn.Module:
    network.requires_grad_(False).eval()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    inject_adapter_in_model(LoraConfig(r=4, target_modules=targets), network)
    return network


def inputs(family: str, shapes: dict[str, Any], words: argparse.Namespace) -> dict[str, Tensor]:
    """Random ones, with positions for FLUX."""
    device, kind = words.device, getattr(torch, words.dtype)
    found = {k: torch.randn(words.batch, *s).to(device, kind) for k, s in shapes.items()}
    found["timestep"] = torch.full((words.batch,), 0.5, device=device).to(kind)
    if family == "flux":
        rows = torch.cartesian_prod(torch.arange(1), torch.arange(16), torch.arange(16))
        found["img_ids"] = rows.to(device, kind)
        found["txt_ids"] = torch.zeros(TOKENS, 3).to(device, kind)
    return found


def seconds(call: Callable[[], Tensor], device: str) -> float:
    """Of one call."""
    if device != "cpu":
        torch.accelerator.synchronize()
        start = time.perf_counter()
        call()
        torch.accelerator.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(family: str, words: argparse.Namespace) -> list[str]:
    """Rows of the table: without and with a gradient."""
    torch.manual_seed(0)
    network, shapes = FAMILIES[family](words.width)
    plain = with_adapter(network).to(words.device, getattr(torch, words.dtype))
    quick = copy.deepcopy(plain)
    compile_blocks(quick)
    given, rows = inputs(family, shapes, words), []

    def rollout(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return network(**given).sample

    def replay(network: nn.Module) -> Tensor:
        output: Tensor = network(**given).sample
        output.square().mean().backward()
        return output.detach()

    for title, call in (("rollout", rollout), ("replay", replay)):
        start = time.perf_counter()
        # Twice: the second call may compile once more.
        outputs = [call(network) for network in (plain, quick, quick)]
        waited = time.perf_counter() - start
        least = [float("inf")] * 2
        for _ in range(words.count):
            for k, network in enumerate((plain, quick)):
                least[k] = min(least[k], seconds(lambda: call(network), words.device))  # noqa: B023
        gap, size = (outputs[0] - outputs[2]).abs().max().item(), outputs[0].abs().max().item()
        cells = [family, title, f"{least[0]:.3f}", f"{least[0] / least[1]:.2f}"]
        rows.append("| " + " | ".join([*cells, f"{waited:.0f}", f"{gap:.1e} of {size:.1f}"]) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--count", type=int, default=5, help="calls of each")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    words = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["network", "call", "s", "times as fast compiled", "s until then", "difference"]
    print(f"torch {torch.__version__}, {words.device}, {words.dtype}, batch {words.batch}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for family in words.only:
        print("\n".join(measure(family, words)), flush=True)


if __name__ == "__main__":
    main()

"""A third side of `benchmarks/peers.py`: DRaFT-K, or DDPO with one update a batch, as a loop for
this one model, which checks and logs nothing. No framework can be much quicker with the same
calls. DDPO takes the gradient of each sample's log-probability while it rolls out, of the whole
batch at once."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from checkpoint import PROMPTS, Judge
from diffusers import DDIMScheduler, StableDiffusionPipeline
from lockstep import Lockstep
from peft import LoraConfig
from torch import Tensor


class Loop:
    """`step` trains on one batch."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case, self.device = case, torch.device(case["device"])
        self.pipe = StableDiffusionPipeline.from_pretrained(case["folder"], safety_checker=None)
        self.pipe.to(self.device)
        for part in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder):
            part.requires_grad_(False).eval()
        names = ["to_q", "to_k", "to_v", "to_out.0"]
        lora = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=names)
        self.pipe.unet.add_adapter(lora)
        self.weights = [p for p in self.pipe.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, 1e-4)
        self.judge = Judge().to(self.device)
        self.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.scheduler.set_timesteps(case["steps"], self.device)
        self.drawn = 0

    @torch.no_grad()
    def conditions(self) -> Tensor:
        """Of no prompt, and of the next ones: `(2 b, tokens, width)`."""
        count = self.case["batch"]
        prompts = [PROMPTS[(self.drawn + i) % len(PROMPTS)] for i in range(count)]
        self.drawn += count
        ids = self.pipe.tokenizer([""] * count + prompts, padding="max_length", return_tensors="pt")
        return self.pipe.text_encoder(ids.input_ids.to(self.device))[0]

    def predict(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        both = self.pipe.unet(torch.cat([x, x]), t, text).sample
        null, full = both.chunk(2)
        return null + self.case["guidance"] * (full - null)

    def draft(self) -> None:
        text, size = self.conditions(), self.pipe.unet.config.sample_size
        x = torch.randn(self.case["batch"], 4, size, size, device=self.device)
        first = self.case["steps"] - self.case["trained"]
        for k, t in enumerate(self.scheduler.timesteps):
            with torch.set_grad_enabled(k >= first):
                output = self.predict(x, t, text)
                x = self.scheduler.step(output, t, x, eta=0.0).prev_sample
        pictures = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
        loss = -self.judge((pictures / 2 + 0.5).clamp(0, 1)).mean()
        loss.backward()
        self.update()

    def ddpo(self) -> None:
        text, size, b = self.conditions(), self.pipe.unet.config.sample_size, self.case["batch"]
        x, scheduler = torch.randn(b, 4, size, size, device=self.device), self.scheduler
        stride = scheduler.config.num_train_timesteps // self.case["steps"]
        rows = Rows(self.pipe.unet, b)
        for t in scheduler.timesteps:
            output = self.predict(x, t, text)
            still = torch.zeros_like(x)  # so that what comes is the mean
            mean = scheduler.step(output, t, x, eta=1.0, variance_noise=still).prev_sample
            variance = scheduler._get_variance(t, t - stride)
            x = (mean + variance**0.5 * torch.randn_like(x)).detach()
            rows.add((-((x - mean) ** 2) / (2 * variance)).flatten(1).mean(1))
        with torch.no_grad():
            pictures = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
            rewards = self.judge((pictures / 2 + 0.5).clamp(0, 1))
            advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            for weight, found in rows.close():
                total = -torch.einsum("b,b...->...", advantage, found)
                weight.grad = total / (b * self.case["steps"])
        self.update()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Rows:
    """The gradients of `b` samples with respect to peft's matrices, of rows that hold the samples
    in order, once or twice."""

    def __init__(self, network: torch.nn.Module, b: int) -> None:
        self.b, self.found = b, {}
        self.anchor = torch.zeros((), device=network.device, requires_grad=True)
        ends = ("lora_A.default", "lora_B.default")
        parts = [m for name, m in network.named_modules() if name.endswith(ends)]
        self.hooks = [part.register_forward_hook(self.note) for part in parts]

    def note(self, part: Any, inputs: Any, output: Tensor) -> Tensor:
        def keep(gradient: Tensor) -> None:
            own = (gradient.mT @ inputs[0]).unflatten(0, (-1, self.b)).sum(0)
            self.found[part.weight] = self.found.get(part.weight, 0.0) + own

        output = output + self.anchor
        output.register_hook(keep)
        return output

    def add(self, values: Tensor) -> None:
        torch.autograd.grad(values.sum(), self.anchor)

    def close(self) -> Any:
        for hook in self.hooks:
            hook.remove()
        return self.found.items()


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    lockstep = Lockstep(case["device"])
    lockstep.start()
    loop = Loop(case)
    for _ in range(case["count"]):
        loop.ddpo() if case["algorithm"] == "ddpo" else loop.draft()
        lockstep.next()


if __name__ == "__main__":
    main()

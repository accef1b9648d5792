"""`multiview_unet`: the multi-view human diffusion model of DrPose, in miniature or at full size.

One sample is 12 rows of latents `(12, c, h, w)`: six views of the normal map, then six of the
colour (14 rows with face crops). The views 3 and 4 (back, left) are stored mirrored, as in PSHuman.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from rewardft_plugins.drpose.model.autoencoder import KLAutoencoder, LatentAutoencoder
from rewardft_plugins.drpose.model.pictures import body_pictures, face_crop, straight_through_clamp
from rewardft_plugins.drpose.model.unet import (
    MINI_SCHEDULE,
    MINI_UNET,
    Condition,
    MiniConditioner,
    MultiviewDenoiser,
    build_unet,
)
from rewardft_plugins.drpose.weights import (
    freeze,
    load_into,
    locate,
    on_device_of,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder
from rewardft.files.paths import PathOrShipped
from rewardft.noise import Noise
from rewardft.recipe.bounds import NotNegative
from rewardft.types import Batch

KIND = "multiview_unet"


class MultiviewUNet(nn.Module):
    """Model contract `DiffusionModel` for multi-view normals and colours of a human from one image.

    Args:
        weights: folder that `save` wrote (miniature), a diffusers folder (full), "shipped", or
            None: random weights.
        autoencoder: folder of a separately trained one (miniature); None: that in `weights`.
        size: "mini" (64 x 64 images, on a CPU) or "full" (SD-2.1-unCLIP's, needs `weights`).
        guidance: classifier-free guidance scale; 1.0 is the conditional prediction alone, without a
            second pass.
        guidance_gradient: "inside": both predictions carry gradient; "outside": the unconditional
            one is a constant.
        face: a seventh row per domain, the crop around the face.
        unet: options of `UNet2DConditionModel` that replace the miniature's own.

    Raises `ComponentError` when weights are missing or do not fit.
    """

    provides = frozenset({"denoiser", "multiview", "betas"})

    def __init__(
        self,
        weights: PathOrShipped | None = None,
        autoencoder: PathOrShipped | None = None,
        size: Literal["mini", "full"] = "mini",
        guidance: NotNegative = 1.0,
        guidance_gradient: Literal["inside", "outside"] = "inside",
        face: bool = False,
        unet: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if guidance_gradient not in ("inside", "outside"):
            raise ComponentError(
                f'guidance_gradient is "inside" or "outside", got {guidance_gradient!r}'
            )
        if size not in ("mini", "full"):
            raise ComponentError(f'size is "mini" or "full", got {size!r}')
        self.guidance, self.guidance_gradient = guidance, guidance_gradient
        self.face, self.size = face, size
        self.views = BODY_VIEWS + face
        self.checkpointing = False
        self.smpl = False
        self.autoencoder: LatentAutoencoder | KLAutoencoder
        if size == "full":
            self._init_full(weights, autoencoder, unet)
        else:
            self._init_mini(weights, autoencoder, unet)
        freeze(self.autoencoder)

    def _init_mini(
        self, weights: str | None, autoencoder: str | None, unet: dict[str, Any] | None
    ) -> None:
        folder = None if weights is None else locate(weights, "base")
        if (
            folder is not None
            and not (folder / "config.json").is_file()
            and (folder / "unet").is_dir()
        ):
            raise ComponentError(f"{folder} is a diffusers folder; say `size: full` to load it")
        config = {**MINI_UNET, **(unet or {})}
        if folder is not None:
            config = self._read_config(folder, unet)
        self.scheduler = DDIMScheduler.from_config(
            MINI_SCHEDULE if folder is None else read_json(folder / "scheduler_config.json")
        )
        self.autoencoder = self._mini_autoencoder(folder, autoencoder, config["out_channels"])
        conditioner = MiniConditioner(DOMAINS * self.views, config["out_channels"])
        self.trainable = MultiviewDenoiser(
            build_unet(config, face=self.face), conditioner, face=self.face
        )
        self.unet_config = config
        if folder is not None:
            path = folder / "unet.safetensors"
            load_into(self.trainable, read_tensors(path), str(path))

    def _read_config(self, folder: Path, unet: dict[str, Any] | None) -> dict[str, Any]:
        config = read_json(folder / "config.json")
        if config.get("kind") != KIND:
            raise ComponentError(
                f"{folder / 'config.json'} is of kind {config.get('kind')!r}, expected {KIND!r}"
            )
        # Rows would be counted wrongly, and the weights would load all the same.
        if config["face"] != self.face:
            raise ComponentError(
                f"{folder} was trained with face: {config['face']}, the recipe says {self.face}"
            )
        changed = {k for k, v in (unet or {}).items() if config["unet"].get(k) != v}
        if changed:
            raise ComponentError(
                f"`unet` options {sorted(changed)} differ from those of the weights in {folder}"
            )
        return config["unet"]

    @staticmethod
    def _mini_autoencoder(
        folder: Path | None, given: str | None, channels: int
    ) -> LatentAutoencoder:
        if given is not None:
            return LatentAutoencoder.load(locate(given, "autoencoder"))
        return LatentAutoencoder(channels) if folder is None else LatentAutoencoder.load(folder)

    def _init_full(
        self, weights: str | None, autoencoder: str | None, unet: dict[str, Any] | None
    ) -> None:
        from rewardft_plugins.drpose.model.unclip import load_unclip

        if weights is None or autoencoder is not None or unet is not None:
            raise ComponentError(
                "size: full takes `weights`, a diffusers folder, and neither `autoencoder` nor "
                "`unet`"
            )
        self.source = Path(weights).expanduser()
        parts = load_unclip(self.source, face=self.face)
        self.scheduler, self.autoencoder = parts.scheduler, parts.autoencoder
        self.unet_config, self.smpl = parts.unet_config, parts.smpl
        self.image_encoder = parts.image_encoder
        self.trainable = MultiviewDenoiser(parts.unet, parts.conditioner, face=self.face)

    @torch.no_grad()
    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """Condition of `batch["image"]` `(b, 3, s, s)` in [0, 1]: latents `(b, 1 or 2, c, h, w)`,
        float32.

        At full size also class labels `(b, 2 v, 2 e)`, the face rows' of the face crop, and, for a
        model with SMPL condition, latents `(b, v, c, h, w)` of the body's pictures.
        """
        image = on_device_of(self.autoencoder, batch["image"])
        images = [image, face_crop(image)] if self.face else [image]
        # (b, 1 or 2, c, h, w): the picture, and its face.
        cond = {"latents": torch.stack([self.autoencoder.encode(view) for view in images], dim=1)}
        if self.size == "full":
            cond["vectors"] = self._labels(images, batch)
        if self.smpl:
            cond["smpl"] = self._body_latents(batch)
        return cond

    def _labels(self, images: list[Tensor], batch: Batch) -> Tensor:
        """Class labels of every row, each with noise of its own, the same in every epoch."""
        embedded = [self.image_encoder(image) for image in images]
        # The body rows share the picture's embedding, the face row has the crop's.
        rows = torch.stack([embedded[0]] * BODY_VIEWS + embedded[1:], dim=1)  # (b, v, e)
        rows = rows.repeat(1, DOMAINS, 1)
        # Epoch 0 always: a picture's condition must not change from one pass to the next.
        noise = Noise(0, batch.ids, [0] * len(batch.ids), rows.device)
        return self.image_encoder.labels(rows, noise.draw("image embedding", rows.shape[1:]))

    def _body_latents(self, batch: Batch) -> Tensor:
        """Latents `(b, v, c, h, w)` of pictures of the posed body in every view."""
        pictures = on_device_of(self.autoencoder, body_pictures(batch))
        if self.face:
            # The crop of the front view, as for the pictures that are generated.
            pictures = torch.cat([pictures, face_crop(pictures[:, 0])[:, None]], dim=1)
        return self.autoencoder.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])

    def drop(self, cond: Condition, mask: Tensor) -> dict[str, Tensor]:
        """The condition with the samples where `mask` `(b,)` is true made unconditional: their
        image parts are zero, and the text of the row stays, as in PSHuman."""
        keep = ~mask
        return {
            name: value * keep.to(value).view(-1, *[1] * (value.ndim - 1))
            for name, value in cond.items()
        }

    def sample_shape(self, cond: Condition) -> tuple[int, ...]:
        return (DOMAINS * self.views, *cond["latents"].shape[2:])

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """States `(b, 2 v, c, h, w)` and timesteps `(b,)` -> the guided network output, shaped as
        x."""
        if self.guidance == 1.0:
            return self.trainable(x, t, cond)
        null = self.drop(cond, torch.ones(len(x), dtype=torch.bool, device=x.device))
        if self.guidance_gradient == "inside":
            both = {name: torch.cat([null[name], cond[name]]) for name in cond}
            # Unconditional rows first, as PSHuman stacks them.
            unconditional, conditional = self.trainable(
                torch.cat([x, x]), torch.cat([t, t]), both
            ).chunk(2)
        else:
            # Two calls: in one of both halves, autograd would keep the graph of the unconditional
            # one too.
            conditional = self.trainable(x, t, cond)
            with torch.no_grad():
                unconditional = self.trainable(x, t, null)
        return unconditional + self.guidance * (conditional - unconditional)

    def decode(self, x0: Tensor) -> Tensor:
        """Latents `(b, 2 v, c, h, w)` -> pixels `(b, 2 v, 3, s, s)` in [0, 1], clamped
        straight-through."""
        # (2 b v, c, h, w): the autoencoder knows single pictures only.
        rows = x0.flatten(0, 1)
        if self.checkpointing and torch.is_grad_enabled():
            # One domain of one sample at a time: the decoder's activations are the largest of all.
            decode, chunks = self.autoencoder.decode, rows.split(self.views)
            pixels = torch.cat([checkpoint(decode, c, use_reentrant=False) for c in chunks])
        else:
            pixels = self.autoencoder.decode(rows)
        return straight_through_clamp(pixels.float()).unflatten(0, x0.shape[:2])

    def clean(self, batch: Batch) -> Tensor:
        """Clean samples `(b, 2 v, c, h, w)` of a batch with the targets `normals`, `colours` `(b,
        6, 3, s, s)`."""
        domains = [on_device_of(self.autoencoder, batch[name]) for name in ("normals", "colours")]
        if self.face:
            # The face row comes last in its domain, as in the states.
            domains = [torch.cat([maps, face_crop(maps[:, 0])[:, None]], dim=1) for maps in domains]
        images = torch.cat(domains, dim=1)
        return self.autoencoder.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def enable_checkpointing(self) -> None:
        """Recompute the activations of the U-Net's blocks and of the decoder in the backward
        pass."""
        self.checkpointing = True
        self.trainable.unet.enable_gradient_checkpointing()

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the whole model: it loads back with `weights=folder`. half: float16 on disk.

        Raises `ComponentError` when an adapter is still attached.
        """
        folder = Path(folder)
        make_folder(folder)
        state = self.trainable.state_dict()
        # Its names are wrapped ones, which no loader of this model would find.
        if any("lora_" in name for name in state):
            raise ComponentError(
                "the model still carries a LoRA adapter; merge it into the weights before saving"
            )
        if not isinstance(self.autoencoder, LatentAutoencoder):
            return self._save_full(folder)
        write_json(
            folder / "config.json",
            {"kind": KIND, "size": "mini", "face": self.face, "unet": self.unet_config},
        )
        self.scheduler.save_pretrained(folder)
        write_tensors(folder / "unet.safetensors", state, half=half)
        self.autoencoder.save(folder, half=half)

    def _save_full(self, folder: Path) -> None:
        from rewardft_plugins.drpose.model.unclip import UnclipParts, save_unclip

        learned: Any = self.trainable
        assert isinstance(self.autoencoder, KLAutoencoder)
        parts = UnclipParts(
            unet=learned.unet,
            unet_config=self.unet_config,
            smpl=self.smpl,
            conditioner=learned.conditioner,
            autoencoder=self.autoencoder,
            image_encoder=self.image_encoder,
            scheduler=self.scheduler,
        )
        save_unclip(parts, self.source, folder)

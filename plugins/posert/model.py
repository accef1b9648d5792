"""`pose_lm`: a language model that answers with words and a pose (Pose-RFT, 2508.07804)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from rewardft_plugins.humans.poses.show import draw_poses
from rewardft_plugins.posert.encoders import Encoder, LandmarkEncoder, PictureEncoder
from rewardft_plugins.posert.generation import Answers, Decoding, generate
from rewardft_plugins.posert.head import PoseHead
from rewardft_plugins.posert.network import PoseLanguageNetwork, Prompt, SoftTokens
from rewardft_plugins.posert.rotations import joints
from rewardft_plugins.posert.text import (
    BODY,
    IMAGE,
    POSE,
    add_pose_tokens,
    build_tokenizer,
    decode_texts,
    encode_texts,
    pad_left,
    pad_right,
)
from rewardft_plugins.posert.weights import SHIPPED, find, load_weights, save_weights
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import Count, CountOrZero
from rewardft.types import Batch


class Answer(TypedDict):
    """What a sample decodes to: texts, `joints` `(b, 27, 3)` in metres from the pelvis, `pose` `(b,
    132)`, and `valid` `(b,)` bool: whether the text holds exactly one `<POSE>`."""

    text: list[str]
    joints: Tensor
    pose: Tensor
    valid: Tensor


class PoseLM:
    """Model whose samples are answers: `tokens`, `mask` `(b, l)`, `pose` `(b, 132)`, `valid`
    `(b,)`.

    Args:
        weights: `shipped`, a safetensors file, or null: random weights, for training.
        lm: folder of a transformers causal language model and its tokenizer; null: a Llama in
            miniature with a vocabulary of words.
        vision: `landmarks` of BlazePose, or `clip`, see `encoders`.
        clip, pose_encoder: folders for `vision: clip`.
        width, layers, heads: of the miniature.
        head_width, rank: of the pose head; rank 0 is a diagonal covariance.
        soft_tokens: tokens of each feature of a picture, and of a pose that is asked about.
        seed: of random weights.
    """

    provides = frozenset({"hybrid_policy"})
    # Attention and output layer by Llama's names, and the pose head, which learns from poses alone.
    lora_targets = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "lm_head",
        "head.enter",
        "head.middle",
        "head.mean",
        "head.spread",
    )
    pictures = False

    def __init__(
        self,
        weights: PathOrShipped | None = SHIPPED,
        lm: Path | None = None,
        vision: Literal["landmarks", "clip"] = "landmarks",
        clip: Path | None = None,
        pose_encoder: Path | None = None,
        width: Count = 128,
        layers: Count = 2,
        heads: Count = 4,
        head_width: Count = 384,
        rank: CountOrZero = 0,
        soft_tokens: Count = 4,
        seed: int = 0,
    ) -> None:
        if lm is not None and weights == SHIPPED:
            raise ComponentError(
                "pose_lm: the shipped weights are those of the miniature. With `lm`, give `weights:"
                " null` (or a file that you have trained)."
            )
        self.encoder = build_encoder(vision, clip, pose_encoder)
        # The global generator is put back, so that building a model changes no other draw.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            language, self.tokenizer = (
                build_miniature(width, layers, heads) if lm is None else load_language_model(lm)
            )
            image, body, self.pose_token = self.tokenizer.convert_tokens_to_ids([IMAGE, BODY, POSE])
            self.soft = SoftTokens(image, body, soft_tokens)
            head = PoseHead(language.config.hidden_size, head_width, rank)
            self.trainable = PoseLanguageNetwork(
                language, self.encoder.size, head, self.soft, head_width
            )
        if weights is not None:
            load_weights(self.trainable, find(weights, "base.safetensors"))
        # Dropout would make the rollout and its replay two policies.
        self.trainable.eval()
        self.rank = rank

    @property
    def end(self) -> int:
        """The token that closes an answer."""
        return int(self.tokenizer.eos_token_id)

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)
        if isinstance(self.encoder, torch.nn.Module):
            self.encoder.to(device)

    def encode(self, batch: Batch) -> Prompt:
        """The columns `prompt` (texts), `body` and what the encoder sees, see `network.Prompt`."""
        # One placeholder in the text stands for all soft tokens of a picture or a pose.
        counts = {
            self.soft.image: self.soft.count * self.encoder.tokens,
            self.soft.body: self.soft.count,
        }
        rows = [
            [token for t in row for token in [t] * counts.get(t, 1)]
            for row in encode_texts(self.tokenizer, batch["prompt"])
        ]
        # On the left, so that an answer follows its prompt without a gap.
        tokens, mask = pad_left(rows, self.padding)
        seen = self.encoder(batch)
        device = seen.device
        return {
            "tokens": tokens.to(device),
            "mask": mask.to(device),
            "seen": seen,
            "body": batch["body"].float(),
        }

    @property
    def padding(self) -> int:
        # Many tokenizers have no padding token; masked positions may hold anything.
        found = self.tokenizer.pad_token_id
        return self.end if found is None else int(found)

    def spell(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Answers as tokens `(b, l)`, closed by the end token, and which are real."""
        tokens, mask = pad_right(encode_texts(self.tokenizer, texts, end=True), self.padding)
        return tokens.to(device), mask.to(device)

    def answer(
        self, prompt: Prompt, tokens: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass over finished answers: scores `(b, l, v)` of every token, and mean, deviation
        and factor of the pose."""
        logits, states = self.trainable.over(prompt, tokens, mask)
        mean, deviation, factor = self.pose_of(tokens, mask, states)
        return logits, mean, deviation, factor

    def speak(self, prompt: Prompt, draws: Tensor, decoding: Decoding) -> tuple[Tensor, ...]:
        """Draw answers: tokens, mask, log-probabilities `(b, l)`, and mean, deviation and factor of
        the pose."""
        found: Answers = generate(self.trainable, prompt, draws, decoding, self.end)
        pose = self.pose_of(found.tokens, found.mask, found.states)
        return found.tokens, found.mask, found.log_probs, *pose

    def pose_of(self, tokens: Tensor, mask: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        """The head at the first `<POSE>`, or at the last token of an answer that has none."""
        at = (tokens == self.pose_token) & mask
        # A state for every row keeps the batch whole; `is_valid` says which poses count.
        place = torch.where(at.any(1), at.long().argmax(1), mask.sum(1) - 1)
        state = states[torch.arange(len(tokens), device=tokens.device), place]
        parts: tuple[Tensor, ...] = self.trainable.head(
            state.to(self.trainable.head.mean.bias.dtype)
        )
        return parts

    def is_valid(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`(b,)` bool: exactly one `<POSE>`."""
        valid: Tensor = ((tokens == self.pose_token) & mask).sum(1) == 1
        return valid

    def clean(self, batch: Batch) -> Tensor:
        """The column `pose`: vectors `(b, 132)`."""
        pose: Tensor = batch["pose"]
        return pose

    def decode(self, x0: dict[str, Tensor]) -> Answer:
        return {
            "text": decode_texts(self.tokenizer, x0["tokens"], x0["mask"]),
            "joints": joints(x0["pose"]),
            "pose": x0["pose"],
            "valid": x0["valid"],
        }

    def show(self, decoded: Answer, batch: Batch) -> Tensor:
        """Pictures `(b, 3, h, w)` in [0, 1] of each pose, from the front and from the side."""
        # Only joints are drawn, so the twists may be empty.
        return draw_poses({"joints": decoded["joints"], "twists": decoded["joints"][:, :0, :2]})

    def save(self, path: Path) -> None:
        """Write the network as float16; it loads back with `weights=path`."""
        save_weights(self.trainable, path)


def build_encoder(vision: str, clip: Path | None, pose: Path | None) -> Encoder:
    """Raises ComponentError for folders that do not fit `vision`."""
    if vision == "landmarks":
        if clip is not None or pose is not None:
            raise ComponentError("pose_lm: `clip` and `pose_encoder` go with `vision: clip`")
        return LandmarkEncoder()
    if clip is None:
        raise ComponentError(
            "pose_lm: `vision: clip` needs `clip`, the folder of a CLIPVisionModel"
        )
    return PictureEncoder(clip, pose)


def build_miniature(width: int, layers: int, heads: int) -> tuple[Any, Any]:
    """A small Llama with random weights, and the tokenizer of our words. Raises ComponentError for
    a width that the heads cannot share."""
    from transformers import LlamaConfig, LlamaForCausalLM

    # Rotary positions turn pairs of numbers, so the width of a head must be even.
    if width < 1 or layers < 1 or heads < 1 or width % (2 * heads):
        raise ComponentError(
            f"expected layers, heads >= 1 and a width that 2 * heads divides, got {layers}, {heads}"
            f" and {width}"
        )
    tokenizer = build_tokenizer()
    # The configuration takes more names than its class declares.
    build_config: Any = LlamaConfig
    config = build_config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config), tokenizer


def load_language_model(folder: Path) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, with `<POSE>` and the soft tokens added. Raises
    ComponentError where `folder` holds none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    language: Any
    try:
        language = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ComponentError(
            f"{folder}: expected a folder with a causal language model of transformers and its "
            f"tokenizer ({error})"
        ) from error
    # Without one an answer never ends.
    if tokenizer.eos_token_id is None:
        raise ComponentError(f"{folder}: the tokenizer has no end token (`eos_token`)")
    add_pose_tokens(tokenizer)
    # Published models often have more embeddings than tokens, and room for new ones.
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer))
    return language, tokenizer

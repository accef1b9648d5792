"""`rewardft drpose train-...`: the plugin's own small networks and the base."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rewardft_plugins.drpose.commands.sources import load_frozen, measure, open_sets

from rewardft.errors import did_you_mean

if TYPE_CHECKING:
    from rewardft_plugins.drpose.data.dataset import Drpose15k
    from torch import Tensor

app = typer.Typer(help="Train the plugin's small networks.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(help="Folder for the weights.")]
Roots = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="ROOT:SPLIT with six-view targets; may be repeated, each equally likely in a batch.",
    ),
]
Pairs = Annotated[
    list[str],
    typer.Option("--data", help="ROOT:SPLIT; may be repeated, each equally likely in a batch."),
]
Held = Annotated[
    list[str], typer.Option("--val", help="ROOT:SPLIT held out, to measure on; may be repeated.")
]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
Lr = Annotated[
    float, typer.Option(min=0.0, help="Peak learning rate; it falls to zero as a cosine.")
]
Seed = Annotated[int, typer.Option(help="Seed of weights, batches and noise.")]
Half = Annotated[bool, typer.Option("--half", help="Save in float16.")]
AUTOENCODER = Annotated[str, typer.Option(help='Folder of the autoencoder, or "shipped".')]


@app.command("train-autoencoder")
def train_autoencoder_command(
    out: Out,
    data: Roots,
    val: Held,
    steps: Steps = 3300,
    lr: Lr = 2e-3,
    seed: Seed = 0,
    half: Half = False,
) -> None:
    """Train the miniature's autoencoder; prints its PSNR on held-out normals and colours."""
    # Imported inside the commands, so that the help shows without loading torch.
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.nets import autoencoder_psnr, train_autoencoder

    options = FitOptions(steps=steps, batch=64, lr=lr, seed=seed)
    model = train_autoencoder(open_sets(data), options, typer.echo)
    model.save(out, half=half)
    measure(val, partial(autoencoder_psnr, model), "dB")


@app.command("train-decoder")
def train_decoder_command(
    out: Out,
    data: Roots,
    val: Held,
    autoencoder: AUTOENCODER = "shipped",
    steps: Steps = 2600,
    lr: Lr = 2e-3,
    noise: Annotated[float, typer.Option(help="Largest noise on the latents.")] = 0.15,
    detail: Annotated[
        float, typer.Option(min=0.0, help="Weight of the loss on local gradient energy.")
    ] = 0.0,
    base: Annotated[
        str, typer.Option(help='Folder of a base, or "shipped": decode its estimates too.')
    ] = "",
    seed: Seed = 0,
    half: Half = False,
) -> None:
    """Give an autoencoder a deeper decoder, or train the decoder that it has; the latents stay the
    same. Prints its PSNR on held-out data."""
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
    from rewardft_plugins.drpose.model.compact import CompactDenoiser
    from rewardft_plugins.drpose.training.decoder import train_decoder
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.nets import autoencoder_psnr
    from rewardft_plugins.drpose.weights import freeze, locate

    model = LatentAutoencoder.load(locate(autoencoder, "autoencoder"))
    # The base only makes the latents that are decoded; it does not learn.
    network = CompactDenoiser.load(locate(base, "compact")) if base else None
    if network is not None:
        freeze(network)
    options = FitOptions(steps=steps, batch=24, lr=lr, seed=seed, weight_decay=1e-3, average=0.998)
    train_decoder(
        model, open_sets(data), options, typer.echo, noise=noise, detail=detail, base=network
    )
    model.save(out, half=half)
    measure(val, partial(autoencoder_psnr, model), "dB")


@app.command("train-estimator")
def train_estimator_command(
    out: Out,
    data: Pairs,
    val: Held,
    steps: Steps = 4000,
    lr: Lr = 2e-3,
    seed: Seed = 0,
    half: Half = False,
) -> None:
    """Train the pose estimator on (picture, pose) pairs; prints its error on held-out pictures."""
    from rewardft_plugins.drpose.training.estimator import estimator_quality, train_estimator
    from rewardft_plugins.drpose.training.fit import FitOptions

    options = FitOptions(
        steps=steps, batch=96, lr=lr, seed=seed, weight_decay=0.0, average=0.995, muon=0.02
    )
    # Pairs of picture and pose are enough, so a set without six views will do.
    model = train_estimator(open_sets(data, targets=False), options, typer.echo)
    model.save(out, half=half)
    measure(val, partial(estimator_quality, model), "mm", targets=False)


@app.command("train-base")
def train_base_command(
    out: Out,
    data: Roots,
    autoencoder: AUTOENCODER = "shipped",
    start: Annotated[
        str, typer.Option(help='Continue from the weights in this folder, or "shipped".')
    ] = "",
    steps: Steps = 6000,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="End the schedule after this time; 0: after --steps.")
    ] = 0.0,
    lr: Lr = 3e-3,
    muon: Annotated[
        float, typer.Option(min=0.0, help="Peak rate of Muon on the layers; 0: AdamW for all.")
    ] = 0.02,
    seed: Seed = 0,
    half: Half = False,
) -> None:
    """Pre-train the compact denoiser on plain poses with targets: the base of `drpose_mini`.

    Every 500 steps the averaged weights are written."""
    from rewardft_plugins.drpose.model.compact import CompactDenoiser
    from rewardft_plugins.drpose.training.base import train_base
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.weights import locate

    encoder = load_frozen(autoencoder)
    options = FitOptions(
        steps=steps,
        batch=12,
        lr=lr,
        seed=seed,
        weight_decay=0.0,
        minutes=minutes,
        average=0.998,
        muon=muon,
    )
    first = CompactDenoiser.load(locate(start, "compact")) if start else None
    keep = partial(CompactDenoiser.save, folder=out, half=half)
    # Written every 500 steps and at the end, so that a long run that is stopped leaves something.
    keep(train_base(open_sets(data), encoder, options, typer.echo, start=first, keep=keep))


@app.command("train-skeleton")
def train_skeleton_command(
    out: Out,
    data: Roots,
    val: Held,
    autoencoder: AUTOENCODER = "shipped",
    steps: Steps = 3000,
    lr: Lr = 2e-3,
    radius: Annotated[
        float, typer.Option(help="Radius of the bones, in units where the picture is 2 wide.")
    ] = 0.04,
    seed: Seed = 11,
    half: Half = False,
) -> None:
    """Train PoseScore's network g_skel; prints held-out PSNR and SSIM of its maps (DrPose: 22.48,
    0.93).

    For a full-size model, `--autoencoder` is the folder `vae` of its pipeline."""
    from rewardft_plugins.drpose.model.autoencoder import load_encoder
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.nets import (
        encode_dataset,
        skeleton_quality,
        train_skeleton,
    )
    from rewardft_plugins.drpose.weights import freeze, locate

    # Of either kind: g_skel is trained on the latents of the model that it will reward.
    encoder = load_encoder(locate(autoencoder, "autoencoder"))
    freeze(encoder)
    # Encoded once: the encoder is frozen, and its passes would be most of the training.
    sets = [encode_dataset(encoder, dataset) for dataset in open_sets(data)]
    options = FitOptions(steps=steps, batch=8, lr=lr, seed=seed)
    model = train_skeleton(sets, options, typer.echo, radius=radius)
    model.save(out, half=half)
    measure(val, lambda held: skeleton_quality(model, encode_dataset(encoder, held), radius))


@app.command("train-form")
def train_form_command(
    out: Out,
    data: Roots,
    val: Held,
    form: Annotated[str, typer.Option(help="What the network reads: joints or silhouettes.")],
    autoencoder: AUTOENCODER = "shipped",
    skeleton: Annotated[
        str,
        typer.Option(
            help='Folder of the skeleton network whose last level is replaced, or "shipped".'
        ),
    ] = "shipped",
    steps: Steps = 600,
    lr: Lr = 2e-3,
    seed: Seed = 11,
    half: Half = False,
) -> None:
    """Train the network of joint_regression or silhouette_score; prints its held-out error (mm) or
    IoU."""
    from rewardft_plugins.drpose.rewards.skeleton_net import SkeletonNet
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.forms import FORMS, draw_truth, form_quality, train_form
    from rewardft_plugins.drpose.training.nets import Encoded, encode_dataset
    from rewardft_plugins.drpose.weights import SHIPPED, locate
    from rewardft_plugins.humans.body import describe_body, load_body

    if form not in FORMS:
        raise typer.BadParameter(f"--form is {form!r}.{did_you_mean(form, FORMS)}")
    body = load_body()
    typer.echo(describe_body(body))
    encoder = load_frozen(autoencoder)

    def prepare(dataset: Drpose15k) -> tuple[Encoded, Tensor]:
        encoded = encode_dataset(encoder, dataset)
        return encoded, draw_truth(FORMS[form], encoded, dataset, body)

    options = FitOptions(steps=steps, batch=4, lr=lr, seed=seed)
    network = SkeletonNet.load(locate(skeleton, "skeleton"))
    model = train_form(
        FORMS[form], network, [prepare(dataset) for dataset in open_sets(data)], options, typer.echo
    )
    # A fork of the shipped network is stored without what it shares; of another one, whole.
    model.save(out, half=half, forked=skeleton == SHIPPED)
    measure(val, lambda held: form_quality(FORMS[form], model, *prepare(held)))


@app.command("train-judge")
def train_judge_command(
    out: Out,
    data: Roots,
    val: Held,
    autoencoder: AUTOENCODER = "shipped",
    steps: Steps = 1500,
    lr: Lr = 2e-3,
    seed: Seed = 1234,
    half: Half = False,
) -> None:
    """Train the independent judge; prints its error and IoU on held-out rendered truth."""
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.nets import judge_quality, train_judge

    encoder = load_frozen(autoencoder)
    model = train_judge(
        open_sets(data), encoder, FitOptions(steps=steps, batch=16, lr=lr, seed=seed), typer.echo
    )
    model.save(out, half=half)
    measure(val, partial(judge_quality, model))

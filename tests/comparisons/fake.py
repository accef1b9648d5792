"""A comparison such as `rewardft compare` records, made of numbers drawn by chance from plausible curves."""

import math
import random

from PIL import Image, ImageDraw

from rewardft.contracts.records import (
    ComparisonRecord,
    Interval,
    Picture,
    Point,
    RunRecord,
    Section,
    Value,
    VariantRecord,
)

TARGET = "reward/pose_score"
# name: gain of the target, of the held-out value, fall of diversity, seconds, backwards per forward
ALGORITHMS = {
    "draft_1": (0.21, 0.08, 0.05, 310.0, 0.1),
    "draft_lv": (0.24, 0.09, 0.07, 420.0, 0.2),
    "drtune": (0.25, 0.11, 0.06, 380.0, 0.5),
    "refl": (0.12, 0.02, 0.02, 240.0, 0.1),
    "alignprop": (0.262, -0.06, 0.34, 640.0, 1.0),
    "ddpo": (0.05, 0.01, 0.03, 505.0, 1.0),
    "grpo": (0.004, 0.0, 0.01, 498.0, 1.0),
    "online_dpo": (-0.06, -0.02, 0.04, 455.0, 0.9),
}
CALLS = 20_000


def estimate(value, width):
    return Interval(value=value, low=value - width, high=value + 1.1 * width)


def fake_comparison(folder=None, variants=8, seeds=3, points=100, pictures=4):
    """`folder`: where pictures are written; without it there are none. Beyond eight, variants are of varied lr."""
    rng = random.Random(7)
    names = [*ALGORITHMS]
    gains = {}
    for index in range(variants):
        algorithm = names[index % 8]
        name = algorithm if index < 8 else f"{algorithm}, lr={1e-4 * (1 + index // 8):.0e}"
        gains[name] = (
            algorithm,
            tuple(x * (1 - 0.02 * (index // 8)) for x in ALGORITHMS[algorithm]),
        )
    best = max(gains, key=lambda name: gains[name][1][0])
    second = max(
        (name for name in gains if name != best), key=lambda name: gains[name][1][0], default=best
    )
    made = [
        variant(
            rng,
            name,
            *gains[name],
            rival=(second if name == best else best, gains),
            seeds=seeds,
            points=points,
        )
        for name in gains
    ]
    if folder is not None:
        made = [with_pictures(one, folder, index, pictures) for index, one in enumerate(made)]
    return ComparisonRecord(
        title="Which algorithm for PoseScore, at equal denoiser calls?",
        date="2026-03-14",
        command="rewardft compare drpose_mini.yaml --vary algorithm=draft_1,draft_lv,drtune,refl,alignprop,ddpo,grpo,online_dpo --seeds 3 --budget 20000-calls",
        budget="20,000 denoiser calls",
        seeds=list(range(seeds)),
        target=TARGET,
        common={
            "model.use": "pose_mini",
            "sampler.use": "ddim",
            "sampler.steps": 20,
            "optimizer.lr": 3e-4,
            "train.ema": None,
            "guidance": True,
        },
        variants=made,
        notes=[
            "Rewards are in [0, 1]; the held-out samples are 64 poses that no variant was trained on."
        ],
        sections=[
            Section(
                title="Skeletons",
                html="<p>Mean error per joint, in pixels: <b id='joints'>elbow 3.1</b>.</p>",
                plugin="drpose",
            )
        ],
        versions={"rewardft": "0.1.0", "torch": "2.6.0", "diffusers": "0.33.1", "xformers": None},
    )


def variant(rng, name, algorithm, numbers, rival, seeds, points):
    gain, held_out, fall, seconds, backwards = numbers
    runs = [
        run(rng, name, seed, gain, held_out, seconds, backwards, points) for seed in range(seeds)
    ]
    if name == "online_dpo" and seeds > 1:
        runs[2] = failed(runs[2], "ComponentError: loss is NaN at step 41", 0.4)
    if name == "ddpo" and seeds > 1:
        runs[1] = failed(runs[1], "RewardError: pose_score returned NaN for 2 of 8 samples", 0.7)
    hacked = fall > 0.3
    alarms = (
        [
            "pose_score rose by 0.26 while aesthetic fell by 0.06",
            "diversity/latents is at 46 % of the base's",
        ]
        if hacked
        else []
    )
    return VariantRecord(
        name=name,
        recipe="drpose_mini.yaml",
        algorithm=algorithm,
        differences={
            "algorithm.use": algorithm,
            "train.lr": 1e-4,
            **({"algorithm.clip": 0.2} if algorithm in ("ddpo", "grpo") else {}),
        },
        runs=[run.model_copy(update={"alarms": alarms[:1]}) for run in runs],
        values=values(rng, gain, held_out, fall, rival, seeds),
        alarms=alarms,
    )


def values(rng, gain, held_out, fall, rival, seeds):
    other, gains = rival
    rows = [
        (TARGET, "reward", True, 0.42, gain, 0.021),
        ("metric/aesthetic", "held_out", True, 5.31, held_out, 0.034),
        ("metric/joint_error", "held_out", False, 14.2, -18 * gain, 0.9),
        (f"acrobatic/{TARGET}", "reward", True, 0.31, 0.8 * gain, 0.035),
        (f"standing/{TARGET}", "reward", True, 0.53, 1.2 * gain, 0.03),
    ]
    per_sample = [
        Value(
            name=name,
            role=role,
            higher_is_better=better,
            samples=192,
            before=estimate(before, width),
            after=estimate(before + change, width),
            iqm=estimate(before + change * 1.04, width * 1.1),
            versus_base=estimate(change, width),
            versus_best=estimate((gain - gains[other][1][0]) * change / (gain or 1), width),
            best=other,
            probability=estimate(1 / (1 + math.exp(-9 * change)), 0.04),
            seeds=[change + rng.gauss(0, width / 2) for _ in range(seeds)],
        )
        for name, role, better, before, change, width in rows
    ]
    sets = [
        ("diversity/latents", None, 0.74, -fall),
        ("kl/trajectory", None, 0.0, 2.2 * abs(gain) + fall),
        ("image/saturation", None, 0.41, fall / 2),
    ]
    per_set = [
        Value(
            name=name,
            role="set",
            higher_is_better=better,
            samples=192,
            before=estimate(before, 0.01),
            after=estimate(before + change, 0.013),
            versus_base=estimate(change, 0.015),
            seeds=[change] * seeds,
        )
        for name, better, before, change in sets
    ]
    return [*per_sample, *per_set]


def run(rng, name, seed, gain, held_out, seconds, backwards, points):
    slope, bias = rng.uniform(2.5, 4), rng.gauss(0, 0.012)
    shares = [(i + 1) / points for i in range(points)]

    def axes(share):
        forwards = CALLS * share / (1 + backwards)
        return {
            "steps": round(400 * share),
            "forwards": forwards,
            "backwards": forwards * backwards,
            "calls": CALLS * share,
            "rewards": 3200 * share,
            "seconds": seconds * share * (1 + 0.02 * seed),
        }

    def level(share, start, change, noise):
        return start + (change + bias) * (1 - math.exp(-slope * share)) + rng.gauss(0, noise)

    training = [
        Point(
            axes=axes(s),
            values={TARGET: level(s, 0.42, gain, 0.012), "loss": -s + rng.gauss(0, 0.05)},
        )
        for s in shares
    ]
    held = [
        Point(
            axes=axes(i / 5),
            values={
                TARGET: level(i / 5, 0.42, gain, 0.004),
                "metric/aesthetic": level(i / 5, 5.31, held_out, 0.01),
            },
        )
        for i in range(6)
    ]
    return RunRecord(
        seed=seed,
        folder=f"runs/{name}-{seed}",
        status="finished",
        axes=axes(1.0),
        peak_memory=int(1.1e9 * (1 + backwards)),
        training=training,
        evaluations=held,
        command=f"rewardft run drpose_mini.yaml algorithm={name} seed={seed}",
    )


def failed(run, reason, share):
    error = f'  File "plugins/drpose/rewards/pose_score.py", line 88, in __call__\n    raise RewardError(message)\nrewardft.errors.{reason}'
    kept = max(1, int(len(run.training) * share))
    return run.model_copy(
        update={
            "status": "failed",
            "reason": reason,
            "error": error,
            "training": run.training[:kept],
            "evaluations": run.evaluations[: max(1, int(6 * share))],
        }
    )


def with_pictures(variant, folder, index, number):
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    found = []
    for sample in range(number):
        base, tuned = f"pictures/base-{sample}.png", f"pictures/{index}-{sample}.png"
        picture(folder / base, sample, 0.0)
        picture(folder / tuned, sample, 0.3 + 0.1 * index)
        found.append(
            Picture(
                sample=f"pose-{sample}",
                group="standing" if sample % 2 else "acrobatic",
                base=base,
                tuned=tuned,
            )
        )
    return variant.model_copy(update={"pictures": found})


def picture(path, sample, change):
    """A figure that raises its arm: 96 x 96 pixels."""
    if path.exists():
        return
    image = Image.new("RGB", (96, 96), (235 - 25 * sample, 225, 200 + 10 * sample))
    draw = ImageDraw.Draw(image)
    arm = math.pi * (0.2 + 0.25 * change + 0.1 * sample)
    draw.ellipse((40, 12, 56, 28), fill=(60, 50, 70))
    draw.line((48, 28, 48, 60), fill=(60, 50, 70), width=6)
    for side in (-1, 1):
        draw.line(
            (48, 36, 48 + side * 26 * math.sin(arm), 36 + 26 * math.cos(arm)),
            fill=(170, 70, 40),
            width=5,
        )
        draw.line((48, 60, 48 + side * 14, 88), fill=(60, 50, 70), width=6)
    image.save(path)

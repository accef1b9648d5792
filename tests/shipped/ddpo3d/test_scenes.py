"""The table of scenes, its pictures, data sets, judges and files."""

import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from rewardft_plugins.ddpo3d.data import Ambigrams, ScenePrompts, ScenesOf
from rewardft_plugins.ddpo3d.gaussians import rotation_matrix
from rewardft_plugins.ddpo3d.model import GaussianScene
from rewardft_plugins.ddpo3d.ply import read_ply, save_ply
from rewardft_plugins.ddpo3d.render import Render
from rewardft_plugins.ddpo3d.silhouettes import BodySilhouettes, body_of, outlines, overlap
from rewardft_plugins.ddpo3d.turntable import as_gif, save_film, turn
from rewardft_plugins.digits.model import DigitUNet

from rewardft.errors import ComponentError, DataError
from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.testing import check_dataset
from rewardft.testing.tiny import TinyModel
from rewardft.types import Batch, Plan, Rollout
from tests.shipped.ddpo3d.scenes import scene_model, views

DATASETS = {
    "ambigrams": lambda: Ambigrams(3),
    "ambigrams_val": lambda: Ambigrams(3, split="val"),
    "scene_prompts": lambda: ScenePrompts(["a chair", "a cup"]),
    "scenes_of": lambda: ScenesOf(Ambigrams(3), limit=4),
}


@pytest.mark.parametrize("name", DATASETS)
def test_the_contract_of_a_data_set(name):
    check_dataset(DATASETS[name]())


def test_ambigrams_hold_out_cameras_and_not_scenes():
    train, val = ([*Ambigrams(4, split=split)] for split in ("train", "val"))
    assert [item["azimuth"] for item in train[:2]] == [0.0, 90.0]
    assert [item["azimuth"] for item in val[:4]] == [-12.0, 12.0, 78.0, 102.0]
    wanted = {(item["scene"], item["group"]): item["label"] for item in train}
    assert wanted == {(item["scene"], item["group"]): item["label"] for item in val}
    assert all(wanted[scene, "side0"] != wanted[scene, "side1"] for scene in range(4))
    assert wanted != {(i["scene"], i["group"]): i["label"] for i in Ambigrams(4, seed=1)}


def test_prompts_say_from_where_they_are_seen():
    items = [*ScenePrompts(["a cup"], elevation=10)]
    assert [(i["azimuth"], i["prompt"]) for i in items] == [
        (0, "a cup, front view"),
        (90, "a cup, side view"),
        (180, "a cup, back view"),
        (270, "a cup, side view"),
    ]
    assert items[0]["elevation"] == 10.0
    assert [i["prompt"] for i in ScenePrompts(["a cup"], cameras=2, words=False)] == ["a cup"] * 2
    assert [i["azimuth"] for i in ScenePrompts(["a cup"], split="val")] == [45, 135, 225, 315]


def test_scenes_of_another_data_set_keep_its_columns():
    item = ScenesOf(Ambigrams(3))[2]
    assert item["scene"] == 2 and item["label"] == Ambigrams(3)[2]["label"]
    assert item["azimuth"].tolist() == [0, 45, 90, 180, 270, 315]
    assert item["mirror"].tolist() == [False, False, False, True, True, False]
    assert len(ScenesOf(Ambigrams(3))) == 6


WRONG = {
    "ambigrams: expected the split train or val, scenes >= 1 and held_out > 0, got 'test', 16 and 12.0": lambda: (
        Ambigrams(split="test")
    ),
    "ambigrams: expected between 1 and 1 sides, as each has a class of its own, got 2 azimuths": lambda: (
        Ambigrams(classes=1)
    ),
    "scene_prompts: expected at least one prompt and camera, and the split train or val; got 0, 4 and 'train'": lambda: (
        ScenePrompts([])
    ),
    "scenes_of: expected at least one azimuth, mirrored ones among them, and limit >= 1; got azimuths [0], mirrored [180, 270], limit None": lambda: (
        ScenesOf(Ambigrams(), [0])
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_data_are_refused(message):
    with pytest.raises(DataError) as caught:
        WRONG[message]()
    assert str(caught.value) == message


def test_the_prior_is_frozen_and_the_scenes_are_not():
    model = scene_model()
    assert not any(p.requires_grad for p in model.prior.trainable.parameters())
    assert sorted(name for name, _ in model.trainable.named_parameters()) == [
        "colour",
        "opacity",
        "position",
        "rotation",
        "scale",
    ]
    assert model.parameter_groups() == {"position": 1 / 3}
    assert scene_model(rates={"colour": 2.0}).parameter_groups() == {
        "position": 1 / 3,
        "colour": 2.0,
    }


def test_scenes_start_alike_however_many_there_are():
    few, many = (
        GaussianScene(TinyModel(width=8), scenes=n, gaussians=5, size=8, box=(1, 2, 3))
        for n in (2, 4)
    )
    assert torch.equal(few.trainable.position, many.trainable.position[:2])
    position = many.trainable.position.detach().abs().amax((0, 1))
    assert bool((position <= torch.tensor([1.0, 2.0, 3.0])).all()) and float(position[2]) > 2
    gaussians = many.trainable(torch.tensor([3]))
    assert gaussians.scale.unique().item() == pytest.approx(0.1)
    assert gaussians.opacity.unique().item() == pytest.approx(0.3)
    assert gaussians.colour.unique().item() == 0.5


def test_a_prior_that_is_not_told_what_is_asked_for():
    prior = DigitUNet(weights=None)
    model = GaussianScene(prior, 2, 5, size=8, channels={"image": 1}, condition="dropped")
    assert model.encode(views())["prior"]["label"].tolist() == [10] * 4
    told = GaussianScene(prior, 2, 5, size=8, channels={"image": 1})
    assert told.encode(views())["prior"]["label"].tolist() == views()["label"].tolist()


def test_scenes_that_are_not_in_the_table():
    with pytest.raises(ComponentError) as caught:
        scene_model().encode(views(3))
    assert str(caught.value) == (
        "the data set has scene 2, and gaussian_scene has 2, counted from 0; set model.scenes"
    )


def test_wrong_options_of_a_model_are_refused():
    with pytest.raises(ComponentError) as caught:
        GaussianScene(TinyModel(), scenes=0, scale=-1.0, opacity=1.0, box=[1.0, 2.0])
    assert str(caught.value) == (
        "gaussian_scene: expected scenes >= 1, got 0; scale > 0, got -1.0; box of three numbers > "
        "0, got [1.0, 2.0]; opacity other than 0 and 1, got 1.0"
    )


def test_a_model_that_cannot_be_a_prior():
    class Poor:
        scheduler = None
        trainable = torch.nn.Linear(1, 1)

        def denoise(self, x, t, cond):
            return x

    with pytest.raises(ComponentError) as caught:
        GaussianScene(Poor(), condition="dropped")
    assert str(caught.value) == "gaussian_scene: Poor cannot be a prior, it has no clean, drop"


def test_views_of_one_sample_and_their_mirrors():
    """Several pictures and views: (b, 2 v, 3, s, s), and a mirrored view is flipped."""
    model = scene_model(channels={"normals": 3, "colours": 3}, background=1.0)
    azimuth = torch.tensor([[0.0, 30.0, 30.0]])
    mirror = torch.tensor([[False, False, True]])
    cond = {
        "scene": torch.tensor([1]),
        "azimuth": azimuth,
        "elevation": 0 * azimuth,
        "mirror": mirror,
    }
    x0 = model.sample(cond)
    assert x0.shape == (1, 6, 3, 8, 8)
    assert torch.equal(x0[:, 2], x0[:, 1].flip(-1)) and not torch.equal(x0[:, 0], x0[:, 1])
    parts = model.columns(x0)
    assert torch.equal(parts["normals"], x0[:, :3]) and torch.equal(parts["colours"], x0[:, 3:])
    assert model.decode(x0) is x0
    _, coverage = model.render(*(cond[n] for n in ("scene", "azimuth", "elevation", "mirror")))
    # The background is white where nothing covers it.
    bright = x0[0, :3].amin(1) > 0.999
    assert bool((coverage[0][bright] < 0.01).all())


def test_pictures_of_unequal_channels():
    model = scene_model(channels={"depth": 1, "colours": 3})
    cond = model.encode(views())
    x0 = model.sample(cond)
    parts = model.columns(x0)
    assert torch.equal(parts["depth"], x0[:, :1]) and torch.equal(parts["colours"], x0[:, 1:])
    several = {name: cond[name][:, None] for name in ("azimuth", "elevation", "mirror")}
    with pytest.raises(ComponentError, match="need equally many channels, got"):
        model.sample({**cond, **several})


def test_gaussians_are_moved_once_a_step_however_many_batches_it_takes():
    model = scene_model(relocate_every=2)
    position = model.trainable.position

    def moves(step):
        with torch.no_grad():
            model.trainable.opacity[:, 0] = -9.0
        before = position.detach().clone()
        model.tend(step)
        return not torch.equal(position, before)

    assert [moves(step) for step in (0, 1, 2, 2, 3, 4, 4)] == [0, 0, 1, 0, 0, 1, 0]


def test_rewards_see_pixels_or_latents():
    batch = views()
    pixels, latents = (scene_model(rewards_see=space) for space in ("pixels", "latents"))
    seen = pixels.sample(pixels.encode(batch))
    own = latents.sample(latents.encode(batch))
    clean = TinyModel(width=8).clean(Batch(batch.ids, batch.epochs, {"image": seen}))
    assert torch.allclose(own, clean) and torch.allclose(pixels.to_prior(seen), clean)
    assert torch.equal(latents.to_prior(own), own) and torch.equal(latents.from_prior(own), own)
    assert torch.allclose(pixels.from_prior(own), torch.sigmoid(2 * own))
    assert torch.allclose(latents.decode(own), torch.sigmoid(2 * own))


def test_cameras_are_drawn_within_the_jitter_and_again_in_a_replay():
    model, sampler = scene_model(), Render(jitter=10, elevation_jitter=5)
    batch = views()
    cond = model.encode(batch)
    noise = Noise(1, batch.ids, batch.epochs)
    moved = sampler.moved(cond, noise)
    by = moved["azimuth"] - cond["azimuth"]
    assert bool((by.abs() <= 10).all()) and len(by.unique()) == 4 and float(by.abs().max()) > 3
    assert bool((moved["elevation"].abs() <= 5).all())
    rollout = sampler.rollout(model, cond, Plan(stop=1), noise)
    step = sampler.replay(model, rollout, 0, input_gradient=False)
    assert torch.equal(step.x0.detach(), rollout.x0) and step.x0.requires_grad
    later = sampler.rollout(model, cond, Plan(stop=1), Noise(1, batch.ids, (1, 1, 1, 1)))
    assert not torch.equal(later.x0, rollout.x0)


def test_cameras_beside_the_samples():
    model, batch = scene_model(), views()
    sampler = Render(cameras=[10.0, 20.0])
    cond = model.encode(batch)
    rollout = sampler.rollout(model, cond, Plan(stop=1), Noise(1, batch.ids, batch.epochs))
    assert rollout.info["azimuths"].tolist() == [[10.0, 20.0]] * 4
    there = {**cond, "azimuth": torch.full((4,), 20.0)}
    assert torch.allclose(rollout.info["pictures"][:, 1], model.sample(there), atol=1e-12)
    assert rollout.select(slice(1, 3)).info["coverage"].shape == (2, 2, 8, 8)


def test_render_needs_scenes():
    with pytest.raises(ComponentError) as caught:
        Render().setup(TinyModel())
    assert str(caught.value) == (
        "render needs a model of scenes, such as `gaussian_scene`; got TinyModel"
    )
    with pytest.raises(ComponentError) as caught:
        Render(jitter=-1)
    assert str(caught.value) == "render: expected jitter >= 0, got -1 and 0.0 degrees"


def test_a_ply_file_holds_the_scene_as_viewers_read_it(tmp_path):
    """Turned by half a turn around x: y down and z away from the viewer."""
    model = scene_model()
    gaussians = model.trainable(torch.tensor([1]))
    save_ply(gaussians, tmp_path / "scene.ply")
    head = (tmp_path / "scene.ply").read_bytes().partition(b"end_header")[0].decode().splitlines()
    assert head[:4] == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 5",
        "property float x",
    ]
    assert [line.split()[-1] for line in head[3:]] == (
        [
            "x",
            "y",
            "z",
            "nx",
            "ny",
            "nz",
            "f_dc_0",
            "f_dc_1",
            "f_dc_2",
            "opacity",
            "scale_0",
            "scale_1",
            "scale_2",
            "rot_0",
            "rot_1",
            "rot_2",
            "rot_3",
        ]
    )
    read = {
        name: torch.from_numpy(v.copy()) for name, v in read_ply(tmp_path / "scene.ply").items()
    }
    half = torch.diag(torch.tensor([1.0, -1.0, -1.0]))

    def column(*names):
        return torch.stack([read[name] for name in names], -1)

    position = gaussians.position[0].float()
    assert torch.allclose(column("x", "y", "z"), position @ half, atol=1e-6)
    # What a viewer computes: 0.5 + C0 f_dc, a sigmoid, an exponential.
    colour = 0.5 + 0.28209479177387814 * column("f_dc_0", "f_dc_1", "f_dc_2")
    assert torch.allclose(colour, gaussians.colour[0].float(), atol=1e-6)
    assert torch.allclose(read["opacity"].sigmoid(), gaussians.opacity[0].float(), atol=1e-6)
    axes = (
        rotation_matrix(column("rot_0", "rot_1", "rot_2", "rot_3"))
        * column("scale_0", "scale_1", "scale_2").exp()[:, None]
    )
    own = gaussians.axes()[0].float()
    assert torch.allclose(
        axes @ axes.transpose(1, 2), half @ own @ own.transpose(1, 2) @ half, atol=1e-6
    )


def test_a_ply_file_has_three_colours(tmp_path):
    gaussians = scene_model(channels={"a": 3, "b": 3}).trainable(torch.tensor([0]))
    with pytest.raises(ComponentError) as caught:
        save_ply(gaussians, tmp_path / "scene.ply")
    assert str(caught.value) == (
        "a .ply file has colours of three channels, and the scene has 6; choose three of them"
    )


def test_a_turntable_turns_by_a_whole_turn():
    model = scene_model(channels={"image": 1})
    frames = turn(model, torch.tensor([0, 1]), 4)
    assert frames.shape == (4, 3, 96, 192)
    quarter = torch.tensor([[90.0]])
    picture, _ = model.render(torch.tensor([1]), quarter, 0 * quarter, torch.tensor([[False]]))
    assert torch.allclose(frames[1, 0, ::12, 96::12], picture[0, 0, 0])
    gif = Image.open(BytesIO(as_gif(frames.float())))
    assert gif.n_frames == 4 and gif.size == (192, 96) and gif.info["duration"] == 100
    gif.seek(1)
    shown = np.asarray(gif.convert("L"), np.float64) / 255
    assert np.abs(shown - frames[1, 0].numpy()).max() < 0.05


def test_a_turntable_is_a_film_by_the_ending_of_its_name(tmp_path, monkeypatch):
    frames = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0)).round()
    save_film(frames, tmp_path / "a.GIF")
    assert Image.open(tmp_path / "a.GIF").n_frames == 3
    with pytest.raises(ComponentError) as caught:
        save_film(frames, tmp_path / "a.avi")
    assert str(caught.value) == f"{tmp_path / 'a.avi'}: expected a name that ends in .gif or .mp4"
    av = pytest.importorskip("av")
    save_film(frames, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert [frame.width for frame in film.decode(video=0)] == [96] * 3
        assert film.streams.video[0].average_rate == 10
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ComponentError) as caught:
        save_film(frames, tmp_path / "b.mp4")
    assert str(caught.value) == (
        f"{tmp_path / 'b.mp4'}: MP4s need PyAV, which is not installed: pip install "
        "'rewardft[video]'. Or name a .gif."
    )
    assert not (tmp_path / "b.mp4").exists()


def test_outlines_are_those_of_the_rendered_bodies():
    """From the cameras of the six stored views, which another module draws."""
    pytest.importorskip("smplx")
    from rewardft_plugins.humans.camera import AZIMUTHS, MIRRORED
    from rewardft_plugins.humans.motion import shipped_clips
    from rewardft_plugins.humans.render import draw_clay

    body = body_of(None)
    poses = next(clip for clip in shipped_clips() if clip.plain).poses[10:12].astype(np.float32)
    betas, offsets = np.zeros((2, 10), np.float32), np.full((2, 3), 0.05, np.float32)
    azimuths, here = np.array(AZIMUTHS, np.float32), np.zeros(1, np.float32)
    (found,) = outlines(body, poses, betas, offsets, azimuths, 64, here)
    clay = draw_clay(body, poses, betas, offsets, 64)
    for view, mirrored in enumerate(MIRRORED):
        drawn = clay[:, view, :, :, ::-1] if mirrored else clay[:, view]
        assert np.array_equal(found[:, view] > 0, drawn.min(1) < 255)


def test_only_a_shift_in_depth_is_taken_out():
    pytest.importorskip("smplx")
    from rewardft_plugins.humans.motion import shipped_clips

    clip = next(clip for clip in shipped_clips() if clip.plain)
    poses = clip.poses[10:11].astype(np.float32)
    betas, azimuths = np.zeros((1, 10), np.float32), np.array([22.5, 112.5], np.float32)
    columns = {"pose": poses, "betas": betas, "offset": np.zeros((1, 3), np.float32)}
    batch = Batch(("a",), (0,), {name: torch.from_numpy(own) for name, own in columns.items()})

    def judged(by):
        offsets, here = np.array([by], np.float32), np.zeros(1, np.float32)
        drawn = outlines(body_of(None), poses, betas, offsets, azimuths, 64, here)[0]
        info = {
            "coverage": torch.from_numpy(drawn) / 255,
            "azimuths": torch.from_numpy(azimuths)[None],
        }
        rollout = Rollout(None, Noise(0, ("a",), (0,)), Plan(stop=1), info=info)
        metric = BodySilhouettes()
        metric.update(rollout, batch)
        return {name: float(value) for name, value in metric.compute().items()}

    assert judged((0, 0, 0)) == {"iou": 1.0, "aligned_iou": 1.0}
    nearer, higher = judged((0, 0, -0.2)), judged((0, 0.2, 0))
    # The same body, two tenths of a metre away: a step of the grid.
    assert nearer["iou"] < 0.7 and nearer["aligned_iou"] == 1.0
    assert higher["aligned_iou"] < 0.9


def test_overlap_on_masks_by_hand():
    found = torch.tensor([[True, True, False], [False, False, False], [False, True, False]])
    truth = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    assert overlap(found, truth).tolist() == pytest.approx([1 / 3, float("nan"), 1.0], nan_ok=True)


def test_silhouettes_need_cameras_beside_the_samples():
    batch = views()
    rollout = Rollout(None, Noise(0, batch.ids, batch.epochs), Plan(stop=1))
    with pytest.raises(ComponentError) as caught:
        BodySilhouettes().update(rollout, batch)
    assert str(caught.value) == (
        "body_silhouettes compares scenes from other cameras than those of training: give the "
        "evaluation's sampler some, evaluate.sampler={use: scene_render, cameras: [22.5, 112.5, "
        "202.5, 292.5]}"
    )


def test_batches_of_a_data_set_have_cameras():
    batch = make_batch([*Ambigrams(2)], [0] * 4)
    assert batch["azimuth"].dtype == torch.float32 and batch["scene"].tolist() == [0, 0, 1, 1]

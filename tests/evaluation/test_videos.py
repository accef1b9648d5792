"""Samples that are videos: files that move in the run folder and in reports."""

import base64
import io
import json
import sys

import av
import pytest
import torch
from PIL import Image, ImageSequence

from rewardft.comparisons.report.pictures import SMALL, embed
from rewardft.evaluation.videos import as_strips, save_gif, save_mp4, save_videos
from rewardft.files.paths import file_name
from rewardft.runs.samples import held_out_pictures, sample_run
from rewardft.testing import run_recipe

PLUGIN = """
import torch
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel

class Film(TinyModel):
    frame_rate = 10.0

    def decode(self, x0):
        levels = torch.linspace(0.2, 1.0, 7).view(1, 7, 1, 1, 1)
        return levels * super().decode(x0)[:, None]

def light(rollout, batch):
    return rollout.decoded.flatten(1).mean(1)

@hookimpl
def register_models():
    return {"film": Film}

@hookimpl
def register_rewards():
    return {"light": light}
"""
RECIPE = """plugins: [rewardft.testing.tiny, ./film.py]
model: {use: film, prediction: v_prediction}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, size: 6, batch_size: 2}
rewards: [{use: light}]
algorithm: {use: draft_k, train_steps: 1}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 1}
"""


def frames_of(path):
    with Image.open(path) as image:
        durations, frames = [], []
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
            frames.append(frame.convert("RGB").copy())
    return frames, durations


def steps_of(frames=7):
    """Each frame of one grey, darker first."""
    levels = torch.linspace(0.1, 0.9, frames).view(frames, 1, 1, 1)
    return levels.expand(frames, 3, 16, 16)


def test_a_gif_holds_every_frame_at_its_rate(tmp_path):
    save_gif(tmp_path / "a.gif", steps_of(), 16)
    frames, durations = frames_of(tmp_path / "a.gif")
    assert durations == [60] * 7  # 62.5 ms, in hundredths of a second
    shown = [frame.getpixel((3, 3))[0] / 255 for frame in frames]
    assert torch.allclose(torch.tensor(shown), torch.linspace(0.1, 0.9, 7), atol=0.01)


@pytest.mark.parametrize(("height", "width"), [(16, 32), (15, 33)])
def test_an_mp4_holds_every_frame_at_its_rate(tmp_path, height, width):
    save_mp4(
        tmp_path / "a.mp4", steps_of()[..., :1].expand(7, 3, 16, width)[:, :, :height], 12.5, av
    )
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == 12.5 and (stream.height, stream.width) == (
            16,
            width + width % 2,
        )
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        shown = [frame.to_ndarray(format="rgb24") / 255 for frame in file.decode(stream)]
    levels = torch.tensor([[frame[3, 3, 0], frame[-1, -1, 0]] for frame in shown])
    expected = torch.linspace(0.1, 0.9, 7)[:, None].expand(7, 2)
    assert torch.allclose(levels.float(), expected, atol=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_av_there_are_gifs_and_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    said = (
        "videos are written as GIFs alone, because MP4s need PyAV, which is not installed: "
        'pip install "rewardft[video]"'
    )
    with pytest.warns(UserWarning) as caught:
        save_videos(steps_of(3)[None], ["a"], tmp_path, 8)
    assert [str(warning.message) for warning in caught] == [said]
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_files_are_named_as_pictures_are(tmp_path):
    videos = torch.stack([steps_of(3), steps_of(3).flip(0)])
    paths = save_videos(videos, ["a", "b/c"], tmp_path / "new", 8, "base-")
    assert [path.name[:8] for path in paths] == ["base-a.g", "base-b_c"]
    assert all(path.suffix == ".gif" and path.is_file() for path in paths)
    assert all(path.with_suffix(".mp4").is_file() for path in paths)
    assert save_videos(torch.rand(2, 3, 8, 8), ["a", "b"], tmp_path, 8) == []


def test_a_still_picture_has_the_first_and_the_last_frame():
    videos = torch.rand(2, 33, 3, 8, 8)
    strips = as_strips(videos)
    assert torch.equal(strips, videos[:, [0, 8, 16, 24, 32]])
    assert as_strips(videos[:, :5]) is not None and as_strips(None) is None


def test_videos_in_the_run_folder(tmp_path):
    (tmp_path / "film.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    drawn, _ = sample_run(run.folder, count=2)
    assert drawn.frame_rate == 10.0
    films = sorted(path.name for path in (run.folder / "samples" / "pictures").glob("*.gif"))
    names = sorted(map(file_name, drawn.ids))
    assert films == [f"{side}-{name}.gif" for side in ("base", "tuned") for name in names]
    written = sorted(path.name for path in (run.folder / "samples" / "pictures").glob("[!.]*"))
    assert written == sorted(films + [name.replace(".gif", ".mp4") for name in films])
    frames, durations = frames_of(run.folder / "samples" / "pictures" / films[0])
    assert len(frames) == 7 and durations == [100] * 7
    with Image.open(run.folder / "samples" / "grid.png") as grid:
        assert grid.width > 2 * 5 * 64  # two strips of five frames, enlarged
    pairs = held_out_pictures(run.folder, 2, tmp_path / "report")
    assert [pair.base.suffix for pair in pairs] == [".gif"] * 2
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "finished"


def test_a_report_embeds_small_videos_and_shrinks_large_ones(tmp_path):
    save_gif(tmp_path / "small.gif", steps_of(), 10)
    assert embed(tmp_path / "small.gif").startswith("data:image/gif;base64,")
    noise = torch.rand(4, 3, 400, 600, generator=torch.Generator().manual_seed(0))
    save_gif(tmp_path / "large.gif", noise, 10)
    assert (tmp_path / "large.gif").stat().st_size > SMALL
    kind, data = embed(tmp_path / "large.gif").split(";base64,")
    assert kind == "data:image/webp"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.n_frames == 4 and max(image.size) == 320


def test_a_report_has_the_mp4_where_there_is_one(tmp_path):
    (path,) = save_videos(steps_of()[None], ["a"], tmp_path, 10)
    kind, data = embed(path).split(";base64,")
    assert kind == "data:video/mp4"
    assert base64.b64decode(data) == path.with_suffix(".mp4").read_bytes()

"""The table of families: the pipeline's latents and pixels, plain autograd's gradient, one step of each algorithm."""

from pathlib import Path

import modular_families as table
import pytest
from modular_tiny import FAMILIES, build

FAST = ["flux2_klein", "qwenimage", "stable_diffusion_xl", "wan22", "cosmos3"]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in FAST]
# Distilled, or with a schedule of guidance of their own.
UNGUIDED = {
    "flux_schnell",
    "flux2_klein",
    "ideogram4",
    "flux3_distilled",
    "krea2_turbo",
    "qwenimage21_turbo",
}
OFTEN = ["qwenimage", "stable_diffusion_xl", "cosmos3"]
GUIDED = OFTEN + [
    pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
    if name not in {*OFTEN, *UNGUIDED}
]


@pytest.mark.parametrize("family", FAST + REST)
def test_a_batch_of_two_prompts_is_the_pipeline_on_each(family):
    rollout, latents, pixels = table.compare(family, None if family in UNGUIDED else 4.0)
    scale = float(rollout.x0.abs().max())
    assert scale > 0.5 and latents < 1e-5 * max(scale, 1.0) and pixels < 1e-5


@pytest.mark.parametrize("family", GUIDED)
def test_without_guidance_too(family):
    guided, _, _ = table.compare(family, 4.0)
    rollout, latents, _ = table.compare(family, 1.0)
    assert latents < 1e-5 * float(rollout.x0.abs().max())
    assert table.distance(guided.x0, rollout.x0) > 1e-3


@pytest.mark.parametrize("family", FAST + REST)
def test_the_gradient_is_plain_autograds(family):
    assert table.gradient_error(family) < 5e-6  # blocks that compute in float32 are the rest


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("algorithm", table.ALGORITHMS)
def test_one_step_of_each_algorithm(family, algorithm, tmp_path):
    assert table.one_step(family, algorithm, tmp_path) == "ok"


@pytest.mark.parametrize("algorithm", table.ALGORITHMS)
def test_one_step_of_a_video_family(algorithm, tmp_path):
    assert table.one_step("wan22", algorithm, tmp_path) == "ok"


def test_there_are_seventeen_families_five_of_them_video():
    """Variants of one family count once."""
    variants = {
        "flux_schnell": "flux",
        "flux2_klein_base": "flux2_klein",
        "wan_unipc": "wan",
        "flux_kontext": "flux",
        "flux3_distilled": "flux3",
        "krea2_turbo": "krea2",
        "qwenimage21_turbo": "qwenimage21",
    }
    families = {variants.get(name, name) for name in FAMILIES}
    videos = {variants.get(name, name) for name in table.VIDEOS}
    assert len(families) >= 17 and len(videos) >= 5


def test_the_table_of_the_docs_is_the_measured_one():
    root = Path(table.__file__).parents[2]
    measured = (root / "benchmarks" / "results" / "modular_families.md").read_text()
    assert measured.strip() in (root / "docs" / "modular.md").read_text()
    assert all(f"| `{name}` |" in measured for name in FAMILIES)


def test_families_without_a_scale():
    assert {name for name in FAMILIES if not hasattr(build(name)[0], "guidance")} == UNGUIDED

"""What every shipped sampler, model and data set promises, asked by the checks that plugin authors have."""

import pytest
import torch
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.digits.data import DigitClasses, DigitImages
from rewardft_plugins.digits.model import DigitUNet
from rewardft_plugins.dpo.pairs import ToyPairs
from rewardft_plugins.drpose.model.multiview import MultiviewUNet
from rewardft_plugins.grpo.cps import CPS
from rewardft_plugins.grpo.dance_sde import DanceSDE
from rewardft_plugins.grpo.dpmsolver import DPMSolver
from rewardft_plugins.grpo.flow_sde import FlowSDE

from rewardft.policy.batches import make_batch
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.ddpm import DDPM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing import check_dataset, check_model, check_sampler
from rewardft.testing.tiny import TinyBlobs, TinyModel
from rewardft.types import Batch

SAMPLERS = {
    "ddim": (DDIM(4), "epsilon"),
    "ddim_eta": (DDIM(4, eta=0.7), "v_prediction"),
    "ddpm": (DDPM(4), "epsilon"),
    "flow_euler": (FlowEuler(4), "flow"),
    "flow_sde": (FlowSDE(4), "flow"),
    "dance_sde": (DanceSDE(4), "flow"),
    "cps": (CPS(4), "flow"),
    "dpmsolver": (DPMSolver(4), "flow"),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name):
    sampler, prediction = SAMPLERS[name]
    check_sampler(sampler, TinyModel(prediction=prediction, width=8))


def first(dataset, count=2):
    return make_batch([dataset[i] for i in range(count)], [0] * count)


def pictures():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    return Batch(("a", "b"), (0, 0), {"image": image})


MODELS = {
    "tiny": (lambda: TinyModel(width=8), lambda: first(TinyBlobs())),
    "digit_unet": (lambda: DigitUNet(weights=None), lambda: first(DigitClasses(4, "val"))),
    "pose_diffusion": (
        lambda: PoseDiffusion(weights=None, width=16, blocks=1),
        lambda: first(PosePictures(split="val", limit=1)),
    ),
    "multiview_unet": (MultiviewUNet, pictures),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    torch.manual_seed(0)
    build, batch = MODELS[name]
    check_model(build(), batch())


DATASETS = {
    "tiny_blobs": lambda: TinyBlobs(),
    "digit_classes": lambda: DigitClasses(20, "val"),
    "digit_images": lambda: DigitImages("val"),
    "toy_pairs": lambda: ToyPairs(),
    "pose_pictures": lambda: PosePictures(split="val", limit=4),
}


@pytest.mark.parametrize("name", DATASETS)
def test_datasets(name):
    check_dataset(DATASETS[name]())

"""`ocr_accuracy` with the real engine on drawn text, its distance against other computations, and what is refused."""

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from rewardft import Batch
from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward, make_rollout

from .pictures import batch_of

pytest.importorskip("rapidocr", reason="reading text needs rapidocr")

from rewardft_plugins.rewards.ocr import OcrAccuracy, fewest_edits


def drawn(*lines, size=96):
    """Black text on white, `(3, size, size)`."""
    image = Image.new("RGB", (size, size), "white")
    font = ImageFont.load_default(size=26)
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((8, 8 + 40 * i), line, "black", font)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def score(reward, pictures, **columns):
    batch = batch_of(len(pictures), **columns)
    return reward(make_rollout(torch.stack(pictures), batch), batch).tolist()


@pytest.fixture(scope="module")
def reward():
    return OcrAccuracy(side=96)


def test_text_that_is_there_is_read(reward):
    """Letters of the real engine on real pixels; another text is judged by its distance."""
    pictures = [drawn("OPEN"), drawn("OPEN"), drawn("OPEN", "24 H"), drawn()]
    values = score(reward, pictures, text=["Open", "OVEN", "open 24h", "open"])
    assert values == [1.0, 0.75, 1.0, 0.0]


def test_no_wanted_text_is_not_applicable(reward):
    values = score(reward, [drawn("OPEN")] * 3, text=["", None, " \n"])
    assert all(np.isnan(values))


def test_the_contract(reward):
    pictures = torch.stack([drawn("STOP"), drawn("GO")])
    report = check_reward(reward, pictures, batch_of(2, text=["stop", "no"]), differentiable=False)
    assert report.high == 1.0 and report.low == 0.5


def reading(*lines, **options):
    """The reward behind an engine that reads these lines in every picture."""
    made = OcrAccuracy(**options)
    made.reader = lambda picture: list(lines)
    return made


PICTURE = torch.zeros(3, 8, 8)
FORMS = [
    # Flow-GRPO's formula by hand: edits over the letters wanted, without blanks and case.
    ("hello world", ["Hello", "World!"], {}, 1 - 1 / 10),
    ("HELLO", ["jello"], {"case": True}, 0.0),
    ("HELLO", ["jello"], {}, 0.8),
    ("ab", ["something else"], {}, 0.0),
    ("open", ["we are OPEN now"], {}, 0.0),
    ("open", ["we are OPEN now"], {"anywhere": True}, 1.0),
    ("open", ["we are OPE", "x"], {"anywhere": True}, 0.75),
    ("open", [], {"anywhere": True}, 0.0),
    # Compatibility forms are one: a ligature, full-width letters.
    ("office", ["o\ufb03ce"], {}, 1.0),
    ("ABC", ["\uff41\uff42\uff43"], {}, 1.0),
    ("no, no; yes", ["No yes"], {"form": "words"}, 2 / 3),
    ("open", ["reopen"], {"form": "words"}, 0.0),
    ("open", ["reopen", "Open!"], {"form": "words"}, 1.0),
]


@pytest.mark.parametrize(("wanted", "lines", "options", "value"), FORMS)
def test_the_forms_by_hand(wanted, lines, options, value):
    assert score(reading(*lines, **options), [PICTURE], text=[wanted]) == pytest.approx([value])


def test_the_text_in_quotes_of_a_prompt():
    prompts = [
        'a sign "open" here',
        "a \u201copen\u201d door",
        'two: "op" and "en"',
        "no text",
        '""',
    ]
    made = reading("OPEN", column="prompt", quoted=True)
    values = score(made, [PICTURE] * 5, prompt=prompts)
    assert values[:3] == [1.0] * 3 and all(np.isnan(values[3:]))


def words(count, longest):
    pick = random.Random(3)
    return ["".join(pick.choices("abc", k=pick.randint(0, longest))) for _ in range(count)]


def test_the_distance_is_that_of_torchmetrics():
    from torchmetrics.functional.text import edit_distance

    for read, wanted in itertools.product(words(12, 9), words(12, 6)):
        assert fewest_edits(read, wanted) == edit_distance([read], [wanted], reduction="sum")


def test_anywhere_is_the_least_distance_to_a_part():
    for read, wanted in itertools.product(words(12, 9), words(12, 6)):
        ends = itertools.combinations_with_replacement(range(len(read) + 1), 2)
        parts = {read[start:stop] for start, stop in ends}
        assert fewest_edits(read, wanted, True) == min(fewest_edits(p, wanted) for p in parts)


def test_an_engine_that_fails_is_not_a_score(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    made = OcrAccuracy(recogniser=broken, side=96)
    with pytest.raises(Exception, match=r"broken\.onnx"):
        score(made, [drawn("OPEN")], text=["open"])
    with pytest.raises(ComponentError) as caught:
        OcrAccuracy(detector=tmp_path / "weights.pt")
    assert str(caught.value) == (
        f"ocr_accuracy: expected an .onnx file, got {tmp_path / 'weights.pt'}"
    )


def refused(reward, batch):
    with pytest.raises(RewardError) as caught:
        reward(make_rollout(PICTURE[None].expand(len(batch), -1, -1, -1), batch), batch)
    return str(caught.value)


def test_columns_that_hold_no_text():
    made = reading("x")
    assert refused(made, batch_of(1, txt=["a"])) == (
        "ocr_accuracy: the data set has no column 'text' with the text to show. Did you mean 'txt'? The option "
        "`columns` of `prompts` names those that it gives; with `quoted: true` the text is read from a prompt."
    )
    assert refused(made, batch_of(2, text=["a", ["b"]])) == (
        "ocr_accuracy: expected text in the column 'text', got list"
    )
    numbers = Batch(("a",), (0,), {"text": torch.tensor([12])})
    assert refused(made, numbers) == (
        "ocr_accuracy: expected text in the column 'text', got Tensor"
    )

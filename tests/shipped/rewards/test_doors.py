"""What comes from outside to the remote reward and its server: options, tokens, pictures, headers."""

import base64
import io
import json
import struct
import zlib

import pytest
from PIL import Image
from rewardft_plugins.rewards.remote import Remote
from rewardft_plugins.rewards.transport import retry_after
from rewardft_plugins.rewards.wire import MOST_PIXELS, WireError, decode_request

from rewardft.errors import ComponentError

URLS = (
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:abc/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:-1/",
    "http://[::1/",
    "http://a b/",
    "http://host\r\nX: y/",
    "http://h\0st/",
    "ftp://host/",
    "http://",
    "",
)


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_cannot_work_is_refused(url):
    with pytest.raises(ComponentError) as caught:
        Remote(url)
    expected = f"remote: expected a url such as http://127.0.0.1:8000/, got {url!r}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("token", ["se\ncret", "secret\n", "se cret", "sécret", "se\tcret"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_quoted(monkeypatch, token):
    monkeypatch.setenv("TOKEN", token)
    with pytest.raises(ComponentError) as caught:
        Remote("http://127.0.0.1:8000/", token_env="TOKEN")
    assert str(caught.value) == (
        "remote: the token in the environment variable TOKEN has a blank, a line break or a "
        "character that is not ASCII; a token has none. Was it read from a file with a line break "
        "at its end?"
    )
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
def test_a_variable_that_cannot_be_is_not_set(name):
    with pytest.raises(ComponentError, match=r"which is not set$"):
        Remote("http://127.0.0.1:8000/", token_env=name) if name else read(name)


def read(name):
    from rewardft_plugins.rewards.remote import read_token

    return read_token(name)


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 2015 07:28:00 +9999999999",
        "Wed, 21 Oct 99999 07:28:00 GMT",
        "9" * 5000,
        "²",
        "soon",
        "-5",
        "1e400",
        "Mon, 01 Jan 0001 00:00:00 +2359",
    ],
)
def test_an_absurd_retry_after_is_passed_over(value):
    waits = retry_after(value)
    assert waits is None or waits == 0.0


def test_a_retry_after_is_seconds_or_a_date():
    assert retry_after("12") == 12.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert 0 < retry_after("Wed, 21 Oct 2099 07:28:00 GMT") < 3e9


def request(pictures):
    message = {
        "version": 1,
        "ids": [str(i) for i in range(len(pictures))],
        "payload": "png",
        "samples": [base64.b64encode(p).decode() for p in pictures],
    }
    return json.dumps(message).encode()


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def announced(width, height):
    """A few bytes that announce a picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + data + png(1, 1)[33:]


REFUSED = {
    "too many pixels": (
        [announced(13000, 13000)],
        f"`samples` has a picture of 13000 x 13000; at most {MOST_PIXELS:,} pixels are decoded",
    ),
    "absurdly many": (
        [announced(2**31 - 1, 2**31 - 1)],
        "`samples` has an entry that is not a PNG file: Image size (4611686014132420609 pixels) exceeds "
        "limit of 178956970 pixels, could be decompression bomb DOS attack.",
    ),
    "too many together": (
        [png(1024, 1024)] * 90,
        "90 pictures of 1024 x 1024 take more than 1,073,741,824 bytes; send fewer in a request "
        "(`batch_size`)",
    ),
    "of two sizes": (
        [png(4, 4), png(4, 5)],
        "expected pictures of one size, got 4 x 4 and 4 x 5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pictures_are_judged_before_they_are_decoded(case):
    pictures, message = REFUSED[case]
    with pytest.raises(WireError) as caught:
        decode_request(request(pictures))
    assert str(caught.value) == message


def test_large_pictures_of_models_are_read():
    assert decode_request(request([png(1024, 768)])).samples.shape == (1, 3, 768, 1024)

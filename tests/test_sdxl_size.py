"""SDXL at full size, counted on the meta device: against published sizes and closed forms."""

import pytest

from workbook.sdxl_size import count_operations, count_parameters, make_parts


@pytest.fixture(scope="module")
def parts():
    return make_parts()


def test_parameters(parts):
    assert count_parameters(parts) == {
        "text encoder 1": 123_060_480,
        "text encoder 2": 694_659_840,
        "UNet": 2_567_463_684,
        "VAE": 83_653_863,
    }
    assert {weight.device.type for part in parts.values() for weight in part.parameters()} == {"meta"}


def test_operations(parts):
    large, small = count_operations(parts, 1024), count_operations(parts, 512)
    tokens = 77
    products, attention = 4 * 768**2 + 2 * 768 * 3072, 2 * tokens * 768  # multiply-adds for each token
    assert large["text encoder 1"] == small["text encoder 1"] == 12 * 2 * tokens * (products + attention)
    for name in ("UNet", "VAE"):
        assert large[name] / 8 < small[name] <= large[name] / 4

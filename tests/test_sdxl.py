"""SDXL at full size, counted on the meta device: against published sizes and closed forms."""

import pytest

from nitro_lab.studies.sdxl import count_operations, count_parameters, make_parts


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def operations(parts):
    return count_operations(parts, 1024)


def test_numbers_of_weights(parts):
    assert count_parameters(parts) == {
        "text encoder 1": 123_060_480,
        "text encoder 2": 694_659_840,
        "UNet": 2_567_463_684,
        "VAE": 83_653_863,
    }


def test_weights_take_no_memory(parts):
    assert {weight.device.type for part in parts.values() for weight in part.parameters()} == {"meta"}


def test_operations_of_a_transformer_are_those_of_its_products(operations):
    tokens = 77
    products, attention = 4 * 768**2 + 2 * 768 * 3072, 2 * tokens * 768  # multiply-adds for each token
    assert operations["text encoder 1"] == 12 * 2 * tokens * (products + attention)


def test_a_picture_of_a_quarter_of_the_pixels_costs_at_most_a_quarter(parts, operations):
    small = count_operations(parts, 512)
    for name in ("UNet", "VAE"):
        assert operations[name] / 8 < small[name] <= operations[name] / 4
    assert operations["text encoder 2"] == small["text encoder 2"]

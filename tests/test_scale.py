"""The notebooks' sizes."""

import pytest

from nitro_lab.workbook.scale import SCALES, choose_scale


def test_full_scale_is_the_default():
    assert choose_scale({}) is SCALES["full"]


def test_the_environment_chooses():
    assert choose_scale({"NITRO_LAB_SCALE": "smoke"}) is SCALES["smoke"]


def test_another_word_is_refused_with_the_words_allowed():
    with pytest.raises(ValueError, match=r"'huge'.*full, smoke"):
        choose_scale({"NITRO_LAB_SCALE": "huge"})

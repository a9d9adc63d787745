"""The step picker without a browser: what its controls do to the images."""

import io

from PIL import Image

from nitro_lab.plots.canvas import enlarge
from nitro_lab.sampling import sample_image
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.widgets.step_picker import step_picker

PROMPT = "a large striped red star at the top on a sunset background"


def test_each_column_shows_the_pipelines_image_for_prompt_seed_and_steps(untrained_pipeline):
    def shown() -> list[bytes]:
        return [Image.open(io.BytesIO(column.children[0].value)).tobytes() for column in columns.children]

    def expected(steps: int) -> bytes:
        image = sample_image(untrained_pipeline, text.value, seed.value, steps)[0]
        return enlarge(image, int(columns.children[steps - 1].children[0].width)).tobytes()

    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    text, seed, switches, columns, remarks = step_picker(untrained_pipeline, PROMPT, seed=2).children
    assert (before := shown()) == [expected(steps) for steps in (1, 2, 3, 4)]
    seed.value = 9
    after = shown()
    assert all(a != b for a, b in zip(before, after, strict=True))
    switches.children[1].value = False
    assert [column.layout.display for column in columns.children] == ["", "none", "", ""]
    text.value = "a large purple dragon"
    assert remarks.value.count("dragon") == 1
    assert shown()[1] == after[1]  # a hidden image is not sampled
    switches.children[1].value = True
    assert shown()[1] == expected(2)

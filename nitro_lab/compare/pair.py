"""Two variants that train side by side: the same start, data and noise, a step of one and then a step of the other."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from matplotlib.figure import Figure

from nitro_lab.compare.pictures import curves
from nitro_lab.compare.planning import Change, apply
from nitro_lab.distill import Report
from nitro_lab.distill_config import DistillConfig
from nitro_lab.plots.canvas import picture_grid
from nitro_lab.provenance import stamp
from nitro_lab.runs.folder import append_row, drop_rows, row_of, show
from nitro_lab.runs.recording import Recording
from nitro_lab.snapshots import replace_file
from nitro_lab.studio import prepare


class Pair:
    """Recordings of some variants, by name. They are prepared one after another: see `prepare_all`.

    Args:
        changes: name -> change, as in `nitro_lab.compare.compare`.
        config: what is changed. The pool gets chance of its own, so that all variants see the same data in order.
        folder: for checkpoints, one folder in it for each variant.

    Raises:
        ValueError: if a change cannot be.
    """

    def __init__(self, changes: Mapping[str, Change], config: DistillConfig, folder: Path):
        base = replace(config, separate_chance=True)
        self.variants = {name: apply(name, change, base) for name, change in changes.items()}
        self.steps = config.steps
        self.folder = folder
        self.recordings: dict[str, Recording] = {}

    def prepare_all(self) -> Iterator[str]:
        """Load the models of each variant, which takes seconds; the name of each before its turn."""
        for name, (config, ideas) in self.variants.items():
            if name not in self.recordings:
                yield name
                self.recordings[name] = Recording(prepare(config, self.folder / name, ideas), moments=1)

    @property
    def step(self) -> int:
        """Steps that all variants have done."""
        if len(self.recordings) < len(self.variants):
            return 0
        return min(recording.step for recording in self.recordings.values())

    def advance(self) -> Report | None:
        """One step of the variant that is behind, the first one of equals; None when there is none left."""
        behind = min(self.recordings.values(), key=lambda recording: recording.step)
        return behind.advance()

    def even_out(self) -> None:
        """Let whoever is behind take its step, so that all have taken equally many."""
        while len({recording.step for recording in self.recordings.values()}) > 1:
            self.advance()

    def stop(self) -> None:
        """Save, and let go; the next `advance` goes on from there."""
        for recording in self.recordings.values():
            recording.stop()

    def samples(self, shown: int = 8) -> Figure:
        """The soft student, and the average of each variant now: the same captions and noise in a column."""
        first = next(iter(self.recordings.values()))
        rows = {"before": first.samples[0][:shown]}
        rows |= {f"{name}, step {each.step}": each.picture()[:shown] for name, each in self.recordings.items()}
        return picture_grid(rows, first.prompts[:shown], size=1.1)

    def margins(self) -> Figure | None:
        """Margins and losses of all variants over the steps; None before the first."""
        if not self.step:
            return None
        return curves({name: [each.table()] for name, each in self.recordings.items()}, memory=8)

    def keep(self, folder: Path) -> None:
        """Write each variant as a run's folder, as `nitro-lab train` leaves one, but for its checkpoint.

        Raises:
            ValueError: if no step was done, or the folder is there already.
        """
        if not self.step:
            raise ValueError("No step was done yet, so there is nothing to keep; press Start first.")
        if folder.exists():
            raise ValueError(f"{folder} is there already; choose another folder.")
        for name, recording in self.recordings.items():
            keep_run(recording, folder / name)


def keep_run(recording: Recording, folder: Path) -> None:
    """Settings, commit, reports, student, samples and curves of one run; see `nitro_lab.runs.folder`."""
    training = recording.training
    stamp(folder)
    settings = json.dumps(asdict(training.config), indent=2) + "\n"
    replace_file(folder / "config.json", lambda file: file.write_text(settings))
    drop_rows(folder / "reports.csv", 0)  # makes the header
    for report in recording.reports:
        append_row(folder / "reports.csv", row_of(report, training.config, training.ideas))
    show(training, folder, recording.samples[0], recording.step)

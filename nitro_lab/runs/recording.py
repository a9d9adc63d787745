"""A run that is watched: its reports and pictures, kept as it goes, whoever drives it."""

from collections.abc import Generator, Sequence

import numpy as np
import torch

from nitro_lab.distill import Report, train
from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import AS_CONFIGURED, Ideas
from nitro_lab.runs.folder import COLUMNS, draw_samples, row_of, sample_prompts
from nitro_lab.studio import Training


class Recording:
    """A training, step by step. A dashboard and a plain loop may take turns in driving it.

    Attributes:
        reports: of all steps that were taken here.
        samples: step -> pictures (N, 3, H, W) of the averaged student, always the same captions and noise; 0 is the
            student before.
        prompts: those N captions.
    """

    def __init__(self, training: Training, moments: int = 4):
        self.training = training
        self.reports: list[Report] = []
        self.samples = {0: draw_samples(training, training.student)}
        self.prompts = sample_prompts(training.config)
        steps = training.config.steps
        self.moments = {round(steps * (i + 1) / moments) for i in range(moments)}
        self.running: Generator[Report, None, None] | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.reports[-1].step if self.reports else 0

    def advance(self) -> Report | None:
        """Take one step and keep its report; None when there is none left."""
        if self.running is None:
            self.running = train(self.training)
        try:
            report = next(self.running, None)
        except BaseException:  # the generator is dead; the next one goes on from the checkpoint
            self.running = None
            raise
        if report is not None:
            while self.step >= report.step:  # after an error, steps since the checkpoint are taken again
                self.reports.pop()
            self.reports.append(report)
            if report.step in self.moments:
                self.samples[report.step] = self.picture()
        return report

    def stop(self) -> None:
        """Save, and let go. The next `advance` goes on from the checkpoint."""
        if self.running:
            self.running.close()
        self.running = None

    def picture(self) -> torch.Tensor:
        """What the averaged student draws now, (N, 3, H, W) in [-1, 1]."""
        return draw_samples(self.training, self.training.average.module)

    def table(self) -> dict[str, np.ndarray]:
        """Columns of the reports, as in a run's reports.csv."""
        return tabulate(self.reports, self.training.config, self.training.ideas)


def record(recording: Recording) -> Recording:
    """Take all steps that are left, without a dashboard."""
    while recording.advance():
        pass
    return recording


def tabulate(reports: Sequence[Report], config: DistillConfig, ideas: Ideas = AS_CONFIGURED) -> dict[str, np.ndarray]:
    """Reports as columns of numbers."""
    rows = np.array([row_of(report, config, ideas) for report in reports], dtype=float).reshape(-1, len(COLUMNS))
    return dict(zip(COLUMNS, rows.T, strict=True))

"""The verbs of adversarial training: `nitro-lab train`, `sample`, `install`, `bench`."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args, get_type_hints

if TYPE_CHECKING:
    from nitro_lab.distill_config import DistillConfig

Verbs: TypeAlias = "argparse._SubParsersAction[LateParser]"
METAVARS = {int: "N", float: "X", str: "NAME"}


class LateParser(argparse.ArgumentParser):
    """Gets its options when it first parses, so that what they are made from is not imported for other verbs."""

    late: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class does."""
        add, self.late = self.late, None
        if add is not None:
            add(self)
        return super().parse_known_args(args, namespace)


def add_train(verbs: Verbs) -> None:
    """The verb train."""
    verb = verbs.add_parser(
        "train", help="sharpen a one-step student under a pool of critics; goes on where it was cut"
    )
    verb.add_argument(
        "--out", type=Path, default=Path("build/distill"), metavar="FOLDER", help="default: build/distill"
    )
    verb.late = add_settings
    verb.set_defaults(verb=train)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """One option for each field of `DistillConfig`, with the meaning that stands there."""
    from nitro_lab.distill_config import DistillConfig

    group = parser.add_argument_group("settings", "[F]: stated by the paper; all else was found on the miniature.")
    kinds = get_type_hints(DistillConfig)
    for setting in fields(DistillConfig):
        group.add_argument(f"--{setting.name.replace('_', '-')}", **option_of(setting, kinds[setting.name]))


def option_of(setting: Field, kind: Any) -> dict[str, Any]:
    """A field of a dataclass as arguments of `add_argument`: its type, its default, and its meaning as help."""
    default = setting.default
    words = " ".join(map(str, default if isinstance(default, tuple) else (default,))) or "empty"
    meaning = setting.metadata["meaning"].replace("%", "%%")
    option = {"default": default, "help": f"{meaning} (default: {words})"}
    if kind is bool:
        return option | {"action": argparse.BooleanOptionalAction}
    if get_args(kind):  # tuple[int, ...]; none at all where that is the default
        member = get_args(kind)[0]
        return option | {"type": member, "nargs": "+" if default else "*", "metavar": METAVARS[member]}
    return option | {"type": kind, "metavar": METAVARS[kind]}


def config_of(options: argparse.Namespace) -> "DistillConfig":
    """The settings that a command line gives."""
    from nitro_lab.distill_config import DistillConfig

    given: dict[str, Any] = {setting.name: getattr(options, setting.name) for setting in fields(DistillConfig)}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return DistillConfig(**given | lists)


def train(options: argparse.Namespace) -> int:
    """Train in a run folder with a progress bar; say in one message why it ended, and how to go on."""
    from safetensors import SafetensorError

    config = config_of(options)
    try:
        train_with_bar(config, options.out)
    except KeyboardInterrupt:
        return complain(f"stopped. {way_on(options.out)}", 130)
    except FloatingPointError as error:
        return complain(f"{error} The run is in {options.out}.")
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileNotFoundError):  # a file of prompts
            raise
        place = getattr(error, "filename", None) or options.out
        return complain(f"{place} cannot be written ({error}). Make room there. {way_on(options.out)}")
    print(f"{options.out}: student.safetensors, samples-*.png, curves.png. Look at what it makes:")
    print(f'  nitro-lab sample {options.out} "a large striped red star at the top on a sunset background"')
    return 0


def train_with_bar(config: "DistillConfig", folder: Path) -> None:
    """Show losses and margin of every step."""
    from tqdm.auto import tqdm

    from nitro_lab.runs.folder import run, steps_done

    done = min(steps_done(folder), config.steps)
    second = os.environ.get("LOCAL_RANK", "0") != "0"  # one bar is enough for all processes
    bar = tqdm(total=config.steps, initial=done, unit="step", desc="train", disable=second)
    with bar, closing(run(config, folder)) as reports:
        for report in reports:
            bar.set_postfix(
                critic=f"{report.critic_loss:.3f}",
                student=f"{report.student_loss:.3f}",
                margin=f"{report.margins.mean():.3f}",
                refresh=False,
            )
            bar.update()


def way_on(folder: Path) -> str:
    """What an interrupted run left, and what to do."""
    from nitro_lab.runs.folder import steps_done

    steps = steps_done(folder)
    kept = f"its checkpoint has {steps} steps" if steps else "it has no checkpoint yet"
    return f"The run is in {folder}, {kept}; the same command goes on from there."


def complain(message: str, status: int = 1) -> int:
    """One line where errors go. Returns the exit status."""
    print(f"nitro-lab: {message}", file=sys.stderr)
    return status


def add_sample(verbs: Verbs) -> None:
    """The verb sample."""
    verb = verbs.add_parser("sample", help="pictures of prompts, by a run of `train` or by any model")
    verb.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, or what load_pipeline takes: mini, ...")
    verb.add_argument("prompt", nargs="+", help="one column of the grid each")
    verb.add_argument("--steps", type=int, nargs="+", default=[1], metavar="N", help="one row each (default: 1)")
    verb.add_argument("--guidance", type=float, default=0.0, metavar="X", help="for teachers; students need none")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    verb.add_argument("--out", type=Path, default=Path("sample.png"), metavar="FILE.png", help="default: sample.png")
    verb.set_defaults(verb=sample)


def sample(options: argparse.Namespace) -> int:
    """Write a grid: a row for each number of steps, a column for each prompt."""
    from nitro_lab.checkpoints import load_pipeline
    from nitro_lab.runs.samples import sample_grid

    pipe = load_pipeline(options.model)
    figure, remarks = sample_grid(pipe, options.prompt, options.steps, options.seed, options.guidance)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)
    for remark in remarks:
        print(remark)
    print(f"written to {options.out}")
    return 0


def add_install(verbs: Verbs) -> None:
    """The verb install."""
    verb = verbs.add_parser("install", help="measure a run's student and put it into the package as the model mini")
    verb.add_argument("run", type=Path, help="a run folder of train")
    verb.add_argument("--images", type=int, default=1000, metavar="N", help="captions of the exam (default: 1000)")
    verb.add_argument(
        "--blend",
        type=float,
        default=1.0,
        metavar="X",
        help="share of the run's weights; the rest is what it started from (default: 1)",
    )
    verb.set_defaults(verb=install)


def install(options: argparse.Namespace) -> int:
    """Measure, write the card, print the table."""
    from nitro_lab.cards.student import install_student
    from nitro_lab.marks import print_table

    print_table(install_student(options.run, options.images, blend=options.blend), options.images)
    return 0


def add_bench(verbs: Verbs) -> None:
    """The verb bench."""
    verb = verbs.add_parser("bench", help="what the pool of critics costs, as ratios within one run, and as a page")
    page = Path("build/bench.html")
    verb.add_argument("--html", type=Path, default=page, metavar="FILE", help=f"the page (default: {page})")
    verb.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    verb.add_argument("--device", help="default: cpu, and cuda too where there is one")
    verb.add_argument("--rounds", type=int, default=15, metavar="N", help="timings of each, in turn (default: 15)")
    verb.set_defaults(verb=bench)


def bench(options: argparse.Namespace) -> int:
    """Measure, print, and write the ratios."""
    from nitro_lab.bench.measure import measure, print_findings, write_findings
    from nitro_lab.bench.page import write_page

    findings = measure(options.device, options.rounds)
    print_findings(findings)
    write_page(findings, options.html)
    print(f"written to {options.html}")
    if options.json:
        write_findings(findings, options.json)
        print(f"written to {options.json}")
    return 0

"""Accuracy under occlusion, corruption and attack: which conditions, and what is measured in them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..cli.flags import Checked, HfArg
from ..errors import UsageError
from .attacks import FGSM, PGD, RandomSigns
from .panel import UNTREATED, Attack, Panel, Treatment
from .perturbations import CORRUPTIONS, STRENGTHS, Corruption, PatchDrop
from .scores import paired_difference


SHARES = tuple(tenths / 10 for tenths in range(10))
EPSILONS = (1.0, 2.0, 4.0, 8.0)

# what a condition's level is
LEVELS = {
    "patch_drop": "share of patches dropped",
    "corruptions": "strength",
    "fgsm": "epsilon in 1/255",
    "pgd": "epsilon in 1/255",
}


@dataclass
class RobustnessArguments(Checked):
    """Under what the models are tested too; a flag without values takes its usual ones."""

    _argument_group_name = "perturbations"

    patch_drop: list[float] | None = HfArg(
        default=None, help="Shares of patches that are blackened, chosen at random in each image; usually 0 to 0.9."
    )
    corruptions: list[str] | None = HfArg(
        default=None, help=f"At five strengths; usually all: {', '.join(CORRUPTIONS)}."
    )
    fgsm_epsilons: list[float] | None = HfArg(
        default=None,
        help="Distances of the fast gradient sign method in units of 1/255, usually 1 2 4 8; random signs of the"
        " same size are measured beside it.",
    )
    pgd_epsilons: list[float] | None = HfArg(
        default=None, help="Distances of projected gradient descent in 1/255, usually 1 2 4 8."
    )
    pgd_steps: int = HfArg(default=10, help="Steps of projected gradient descent.")
    num_bootstrap_samples: int = HfArg(
        default=10_000, help="Resamples behind the intervals of differences between models."
    )
    seed: int = HfArg(default=0, help="Seed of patches, noise, attacks' starts and resampling.")

    def __post_init__(self) -> None:
        self.patch_drop = self._values("patch_drop", SHARES, lambda share: 0 <= share < 1, "numbers in [0, 1)")
        names = ", ".join(CORRUPTIONS)
        self.corruptions = self._values("corruptions", CORRUPTIONS, lambda name: name in CORRUPTIONS, f"among {names}")
        for name in ("fgsm_epsilons", "pgd_epsilons"):
            setattr(self, name, self._values(name, EPSILONS, lambda e: 0 <= e <= 255, "numbers from 0 to 255"))
        self.require_all("pgd_steps", lambda value: 1 <= value < 10**6, "from 1 to 999999")
        self.require_all("num_bootstrap_samples", lambda value: 100 <= value < 10**7, "from 100 to 9999999")
        self.require_all("seed", lambda value: 0 <= value < 2**32, "an integer from 0 to 2**32 - 1")

    def _values(self, name: str, usual: Any, is_allowed: Any, allowed: str) -> list[Any] | None:
        given = getattr(self, name)
        if given is None:
            return None
        wrong = next((value for value in given if not is_allowed(value)), None)
        if wrong is not None:
            raise UsageError(f"`{name}` must be {allowed}, got {wrong!r}.")
        return list(dict.fromkeys(given or usual))


@dataclass(frozen=True)
class Condition:
    """Under what images are classified.

    Args:
        kind: one of `LEVELS`, which share a figure.
        name: of the perturbation.
        level: how much of it.
        treatment: that the perturbation is at this level.
    """

    kind: str
    name: str
    level: float
    treatment: Treatment


def conditions(arguments: RobustnessArguments, grid: tuple[int, int]) -> list[Condition]:
    """All that was asked for, without what stands at level 0 of corruptions and attacks: no perturbation.

    Args:
        arguments: what was asked for.
        grid: rows and columns of patches.
    """
    return [*_drops(arguments, grid), *_corruptions(arguments), *_attacks(arguments)]


def _drops(arguments: RobustnessArguments, grid: tuple[int, int]) -> Iterator[Condition]:
    for share in sorted(arguments.patch_drop or ()):
        drop = PatchDrop(share, *grid, arguments.seed)
        yield Condition("patch_drop", "patch_drop", share, Treatment(of_views=drop))


def _corruptions(arguments: RobustnessArguments) -> Iterator[Condition]:
    for name in arguments.corruptions or ():
        yield Condition("corruptions", name, 0, Treatment(at_shared_size=True))
        for strength in STRENGTHS:
            corruption = Corruption(name, strength, arguments.seed)
            yield Condition("corruptions", name, strength, Treatment(perturbation=corruption))


def _attacks(arguments: RobustnessArguments) -> Iterator[Condition]:
    steps, seed = arguments.pgd_steps, arguments.seed
    yield from _attack("fgsm", "fgsm", arguments.fgsm_epsilons, FGSM)
    yield from _attack("fgsm", "random_signs", arguments.fgsm_epsilons, lambda epsilon: RandomSigns(epsilon, seed))
    yield from _attack("pgd", "pgd", arguments.pgd_epsilons, lambda epsilon: PGD(epsilon, steps, seed))


def _attack(
    kind: str, name: str, epsilons: Sequence[float] | None, make: Callable[[float], Attack]
) -> Iterator[Condition]:
    for epsilon in [] if epsilons is None else sorted({0.0, *epsilons}):
        yield Condition(kind, name, epsilon, Treatment(attack=make(epsilon / 255)) if epsilon else UNTREATED)


def patch_grid(panel: Panel) -> tuple[int, int]:
    """Rows and columns of the first model's patches, which are dropped at the same places for the others."""
    first = panel.classifiers[0]
    return tuple(max(1, side // first.patch_size) for side in first.scale.size)


def measure(panel: Panel, names: Sequence[str], arguments: RobustnessArguments) -> list[dict[str, Any]]:
    """Accuracy of every model in every condition.

    Args:
        panel: the models and the images.
        names: of the models, for the rows.
        arguments: what was asked for.

    Returns:
        Rows with `kind`, `perturbation`, `level`, `model`, `accuracy` and `samples`, and for all models but the first
        the paired `difference` to it, `difference_low` and `difference_high`.
    """
    # no perturbation at all stands at the beginning of several curves
    found: dict[Treatment, list[Tensor]] = {}
    rows = []
    for condition in conditions(arguments, patch_grid(panel)):
        treatment = condition.treatment
        if treatment not in found:
            found[treatment] = panel.correct(f"{condition.name} {condition.level:g}", treatment)
        head = {"kind": condition.kind, "perturbation": condition.name, "level": condition.level}
        rows += [{**head, **row} for row in compare(found[treatment], names, arguments)]
    return rows


def compare(
    correct: Sequence[Tensor], names: Sequence[str], arguments: RobustnessArguments
) -> Iterator[dict[str, Any]]:
    """A row for each model: its accuracy, and the paired difference to the first.

    Args:
        correct: [images] for each model.
        names: of the models.
        arguments: number of resamples and seed.
    """
    for name, mine in zip(names, correct, strict=True):
        row = {"model": name, "accuracy": mine.double().mean().item(), "samples": len(mine)}
        if mine is not correct[0]:
            row |= paired_difference(mine, correct[0], arguments.num_bootstrap_samples, arguments.seed)
        yield row

"""How many parameters published masks cost: all networks in the pipeline, counted by one stated convention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from pydantic import Field, model_validator

from harness.registry import configs
from harness.report.published import Score
from harness.strict import Frozen, parse, read_yaml

UNKNOWN = "parameters not known"


class Network(Frozen):
    """A network's parameters, in millions, and the code that they are counted from."""

    millions: float = Field(gt=0)
    source: str = Field(min_length=1)


class Account(Frozen):
    """The networks of a published method.

    Attributes
    ----------
    scores : tuple of dict
        Which scores are of it: fields of `Score`, with the values that they have.
    bpm, segmentation : tuple of str
        All networks in the pipeline up to its baseline pseudo-masks, and up to its segmentation network.
    unknown : str
        Why a stage without networks has none.
    paper : bool
        Whether it is the method of the paper whose figure this is.
    """

    scores: tuple[dict[str, str], ...] = Field(min_length=1)
    bpm: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    unknown: str = UNKNOWN
    paper: bool = False

    def covers(self, score: Score) -> bool:
        """Return whether a score is of this method."""
        return any(all(getattr(score, key) == value for key, value in fields.items()) for fields in self.scores)

    def networks(self, stage: str) -> tuple[str, ...]:
        """Return all networks in the pipeline up to a stage; none where they are not known."""
        return {"bpm": self.bpm, "segmentation": self.segmentation}.get(stage, ())


class Accounts(Frozen):
    """The file `configs/parameters.yaml`."""

    summary: str
    convention: str
    networks: dict[str, Network]
    methods: dict[str, Account]

    @model_validator(mode="after")
    def _networks_are_there(self) -> Accounts:
        for name, account in self.methods.items():
            missing = {*account.bpm, *account.segmentation} - self.networks.keys()
            if missing:
                raise ValueError(f"method '{name}' has a network that is not counted: {', '.join(sorted(missing))}")
        return self

    def of(self, score: Score) -> tuple[str, Account] | None:
        """Return the method that a score is of, with its name; None for one that is not listed."""
        return next((found for found in self.methods.items() if found[1].covers(score)), None)

    def millions(self, networks: Sequence[str]) -> float:
        """Return how many million parameters some networks have together."""
        return sum(self.networks[name].millions for name in networks)


@cache
def accounts() -> Accounts:
    """Return what is known of published methods.

    Raises
    ------
    UserError
        If the file does not hold what it should, with where in it.
    """
    path = configs() / "parameters.yaml"
    return parse(Accounts, read_yaml(path), source=path)

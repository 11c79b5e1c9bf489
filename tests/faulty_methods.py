"""Methods that fail in every way that a method can, given to a run as a plugin."""

# ruff: noqa: T201 -- some print, as a plugin may

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from harness import Batch, Method, Params, Phase, Step, TrainParams
from harness.data.base import Dataset


class Base(Method):
    families = ()
    output = "probability"
    background = True
    supervision = ()
    Params = Params

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        self.num_classes = num_classes
        return nn.Linear(1, num_classes)

    def fit(self, model: Any, data: Any, session: Any) -> None:
        pass

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Any:
        return torch.full((len(images), model.out_features, 2, 2), 0.2)


class Good(Base):
    """Works."""

    name = "good"


class Raises(Base):
    """Raises."""

    name = "raises"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        print("about to fail")
        raise RuntimeError("no luck\nat all")


class Exits(Base):
    """Ends its process."""

    name = "exits"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        os._exit(3)


class Quits(Base):
    """Ends its process as Python ends one."""

    name = "quits"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        raise SystemExit(3)


class Unsure(Base):
    """Raises before anything is planned."""

    name = "unsure"

    @classmethod
    def skip(cls, spec: Any) -> str:
        raise KeyError("which")


class Floods(Base):
    """Prints without end, from Python and from below, and then raises."""

    name = "floods"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        for number in range(60):
            print("x" * 999 + "\n", end="" if number % 2 else "y\n" * 9**5)
            os.write(1, b"z" * (1 << 20) + b"\n")
        raise RuntimeError("enough")


class Grows(Base):
    """Takes more and more memory."""

    name = "grows"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        kept: list[bytearray] = []
        while True:
            kept.append(bytearray(os.urandom(1 << 20) * 8))


class Negative(Base):
    """Returns what the contract forbids."""

    name = "negative"

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Any:
        return super().score(model, images, labels) - 1


class Strided(Base):
    """Returns maps whose memory is in another order."""

    name = "strided"

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Any:
        rows = torch.arange(2.0).view(1, 2, 1, 1).expand(len(images), 2, 3, self.num_classes)
        return rows.permute(0, 3, 1, 2)


class Hostile(Base):
    """Looks for ground truth, or a way to it, wherever it can reach while it fits."""

    name = "hostile"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        seen: set[int] = set()
        found: list[str] = []
        todo: list[Any] = [self, model, data, session, dict(os.environ), sys.argv]
        frame: Any = sys._getframe()
        while frame:
            todo += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
        todo += gc.get_objects()
        while todo:
            thing = todo.pop()
            if id(thing) in seen or thing is seen or thing is todo:
                continue
            seen.add(id(thing))
            if isinstance(thing, Dataset):
                found.append(f"a dataset: {thing!r}")
            elif isinstance(thing, str | bytes | os.PathLike):
                text = str(thing)
                if len(text) < 500 and "/".join(["SegmentationClass", ""]) in text:
                    found.append(text)
                elif text.rstrip("/").endswith("/" + "-".join(["toy", "1"])):
                    found.append(f"a dataset folder: {text}")
            elif isinstance(thing, dict):
                todo += [*thing.keys(), *thing.values()]
            elif isinstance(thing, list | tuple | set):
                todo += list(thing)
            elif str(type(thing).__module__).startswith("harness"):
                todo += list(getattr(thing, "__dict__", {}).values())
        print(len(seen), "objects looked at")
        if found:
            raise RuntimeError("reached " + "; ".join(sorted(set(found)))[:300])


class Late(Base):
    """Says background in its second epoch, and a class in every other."""

    name = "late"
    families = ("vit",)
    predicts_presence = True
    Params = TrainParams

    def build(self, backbone: Any, num_classes: int) -> nn.Module:
        model = nn.Linear(1, num_classes)
        nn.init.zeros_(model.bias)
        return model

    def phases(self, model: Any) -> list[Phase]:
        return [Phase(self.params.epochs, [{"params": [model.bias], "lr": 1.0}], "SGD")]

    def fit(self, model: Any, data: Any, session: Any) -> None:
        Method.fit(self, model, data, session)

    def training_step(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        return {"count": -model.bias[0]}

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Any:
        maps = torch.full((len(images), model.out_features, 2, 2), 0.2)
        maps[:, 0 if model.bias[0] == 2 else 1] = 0.9
        return maps, torch.ones(len(images), model.out_features - 1)


class Hangs(Base):
    """Never ends."""

    name = "hangs"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        while True:
            time.sleep(1)


class Large(Base):
    """Has memory for one image at a time."""

    name = "large"

    def score(self, model: Any, images: Tensor, labels: Tensor | None) -> Any:
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return super().score(model, images, labels)


class Memory(Base):
    """Runs out of memory."""

    name = "memory"

    def fit(self, model: Any, data: Any, session: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

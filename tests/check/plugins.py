"""Plugins that keep the contract, and for each check edits that break it."""

from __future__ import annotations

METHOD = '''"""A method that keeps the contract."""

import torch
from pydantic import Field
from torch import nn

from harness import Method, TrainParams


class GoodParams(TrainParams):
    """Settings.

    Attributes
    ----------
    width : int
    """

    width: int = Field(1, ge=1)


class Good(Method):
    """Classifies means."""

    name = "good"
    cite = "good2026"
    families = ("vit",)
    predicts_presence = True
    Params = GoodParams

    def build(self, backbone, num_classes):
        model = nn.Module()
        model.backbone = backbone
        model.head = nn.Conv2d(backbone.dim, num_classes - 1, 1)
        return model

    def training_step(self, model, batch, step):
        logits = model.head(model.backbone(batch.images)).mean((2, 3))
        return {"bce": nn.functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 1:])}

    def score(self, model, images, labels):
        maps = model.head(model.backbone(images))
        return maps.relu(), maps.mean((2, 3)).sigmoid()
'''

REFINER = '''"""A refiner that keeps the contract."""

import numpy as np
from pydantic import Field

from harness import Refiner, RefinerParams


class GoodParams(RefinerParams):
    """Settings.

    Attributes
    ----------
    power : float
    """

    power: float = Field(2.0, gt=0)


class Good(Refiner):
    """Sharpens."""

    name = "good"
    Params = GoodParams

    def refine(self, image, probabilities):
        sharp = probabilities**self.params.power
        return sharp / sharp.sum(0)
'''

DATASET = '''"""A dataset that keeps the contract."""

import numpy as np
from PIL import Image

from harness import Dataset
from harness.data.base import save_mask


class Good(Dataset):
    """Squares."""

    name = "good"
    classes = ("background", "square")
    weights = "random"
    needs_root = False
    label_source = "file"

    def prepare(self):
        if self.root.exists():
            return
        self.root.mkdir(parents=True)
        for number, image_id in enumerate(self.ids("train") + self.ids("val")):
            mask = np.zeros((64, 96), np.uint8)
            mask[16:48, 16 : 32 + 4 * number] = 1
            Image.fromarray(np.stack([90 + 100 * mask] * 3, 2)).save(self.image_path(image_id))
            save_mask(self.mask_path(image_id), mask)

    def splits(self):
        return ["train", "val"]

    def ids(self, split):
        return [f"{split}{number}" for number in range(3)]

    def image_path(self, image_id):
        return self.root / f"{image_id}.jpg"

    def mask_path(self, image_id):
        return self.root / f"{image_id}.png"

    def label_file(self, image_id, source):
        return self.mask_path(image_id)

    def image_labels(self, image_id, source):
        return [1]
'''

GOOD = {"method": METHOD, "refiner": REFINER, "dataset": DATASET}

_STEP = "        logits = model.head"
_MAPS = "        maps = model.head(model.backbone(images))\n"
_SCORE = "return maps.relu(), "
_FIT = "    def fit(self, model, data, session):\n        {}\n\n    def training_step"
_CLASS = '    name = "good"\n'
_REFINED = "return sharp / sharp.sum(0)"
_SHARP = "        sharp = probabilities"

# kind, check, what stands in the good plugin, what stands in the broken one, what the finding says
BROKEN = [
    ("method", "imports", "import torch\n", "import no_such_module\n", "ModuleNotFoundError: No module named"),
    ("method", "imports", "import torch\n", "import torch\ntorch.manual_seed(3)\n", "changes the torch random seed"),
    ("method", "imports", "import torch\n", "import os\nos.chdir('/')\n", "changes the working directory"),
    ("method", "named", '"good"', '"Good, the"', "'Good, the' cannot be typed"),
    ("method", "documented", '    """Classifies means."""\n', "", "Good has no docstring"),
    ("method", "cited", '"good2026"', '""', "no `cite`"),
    ("method", "exceptions_explained", _CLASS, _CLASS + "    expected_failures = {'trians': 'no'}\n", "mean 'trains'"),
    ("method", "exceptions_explained", _CLASS, _CLASS + "    expected_failures = {'cited': ' '}\n", "no reason for"),
    ("method", "well_declared", '("vit",)', '("vit")', "`families` is 'vit', not a tuple"),
    ("method", "well_declared", '("vit",)', '("vti",)', "did you mean 'vit'"),
    ("method", "well_declared", _CLASS, _CLASS + '    output = "probabilities"\n', "`output` is 'probabilities'"),
    ("method", "well_declared", _CLASS, _CLASS + '    resources = {"fit.gpu": 1}\n', "unknown resource 'fit.gpu'"),
    ("method", "has_defaults", "Field(1, ge=1)", "Field(ge=1)", "no default for width"),
    ("method", "has_defaults", "width: int = Field(1, ge=1)", "width: float = float('nan')", "not JSON"),
    ("method", "settings_documented", "    width : int\n", "", "not described: width"),
    ("method", "versioned", _CLASS, _CLASS + "    version = 2\n", "`version` is 2, not a text"),
    ("method", "versioned", "import torch\n", "import torch\nimport beside\n", "it imports beside (beside.py)"),
    ("method", "skips_with_a_reason", "    def build",
     "    @classmethod\n    def skip(cls, spec):\n        return True\n\n    def build", "`skip` returns True"),
    ("method", "takes_small_settings", "    width: int", "    image_size: int = Field(224, ge=224)\n    width: int", "greater than"),
    ("method", "builds", "backbone.dim, num", "backbone.channels, num", "no attribute 'channels'"),
    ("method", "builds", "return model\n", "return None\n", "`build` gave None, expected a torch.nn.Module"),
    ("method", "counts_parameters", "model.backbone", "model.trunk", "has no `backbone`"),
    ("method", "survives_saving", "return model\n", "model.same = model.head.weight\n        return model\n", "share memory"),
    (
        "method",
        "survives_saving",
        "return model\n",
        "noise = torch.rand(1)\n        model.head.register_forward_hook(lambda m, i, out: out + noise)\n        return model\n",
        "gives other scores",
    ),
    ("method", "losses_named", "(logits, batch.labels[:, 1:])}", "(logits, batch.labels[:, 1:], reduction='none')}",
     "the loss 'bce' as a Tensor torch.float32 (4, 4), expected"),
    ("method", "losses_named", _STEP, "        return {'bce': torch.tensor(float('nan'), requires_grad=True)}\n" + _STEP,
     ""),
    ("method", "losses_named", 'return {"bce"', 'return {} and {"bce"', "gave a dict of 0, expected a dict of losses"),
    ("method", "gradients_arrive", "model.backbone(batch.images)", "model.backbone(batch.images).detach()",
     "the gradient of `backbone` is 0"),
    ("method", "trains", "return {\"bce\": ", "return {\"bce\": 0 * ", "two epochs changed no weight"),
    ("method", "training_is_deterministic", _STEP, "        import random\n        batch.images.mul_(random.random())\n" + _STEP,
     "two trainings from one seed"),
    ("method", "training_is_resumable", _STEP,
     "        self.seen = getattr(self, 'seen', 0) + 1\n        batch.images.mul_(0.9**self.seen)\n" + _STEP,
     "killed and resumed"),
    ("method", "scores_on_a_grid", _SCORE, "return maps.relu().repeat_interleave(32, 2), ", "is larger than the image"),
    ("method", "scores_on_a_grid", _SCORE, "return maps.relu()[0], ", "not a float tensor"),
    ("method", "channels_as_declared", _CLASS, _CLASS + "    background = True\n", "4 channels; with a background"),
    ("method", "scores_are_sound", "maps.relu()", "maps - 9", "they must be in [0, 65504]"),
    ("method", "scores_are_sound", "maps.relu()", "1 / (0 * maps)", ""),
    (
        "method",
        "probabilities_add_up",
        "return maps.relu(), maps.mean((2, 3)).sigmoid()\n",
        "return 5 + maps.relu(), maps.mean((2, 3)).sigmoid()\n\n\nGood.output = 'probability'\n",
        "probabilities from",
    ),
    ("method", "presence_as_declared", "    predicts_presence = True\n", "", "predicts_presence is False"),
    ("method", "presence_as_declared", ".mean((2, 3)).sigmoid()\n", ".mean((2, 3))\n", "presence from"),
    ("method", "presence_as_declared", "mean((2, 3)).sigmoid()\n", "mean((2, 3))[:, 1:].sigmoid()\n", "no background"),
    ("method", "labels_unused", _MAPS,
     _MAPS + "        maps = maps if labels is None else maps * labels[:, 1:, None, None]\n", "when image labels are given"),
    ("method", "batch_is_no_matter", "maps.relu()", "maps.relu() / maps.relu().amax().clamp(min=1e-5)", "alone than among"),
    ("method", "other_sizes", _MAPS, "        maps = model.head(model.backbone(images).reshape(-1, 64, 4, 4))\n", ""),
    ("method", "native_sizes", "maps.relu()", "maps.relu().transpose(2, 3)", "a wide image gives a tall grid"),
    ("method", "input_unmodified", _STEP, "        batch.images.sub_(0.5)\n" + _STEP, "`training_step` changes its batch"),
    ("method", "input_unmodified", _MAPS, "        images -= 0.5\n" + _MAPS, "`score` changes its input"),
    ("method", "model_unmodified", _MAPS, "        model.train()\n" + _MAPS, "leaves the model in training mode"),
    ("method", "model_unmodified", _STEP, "        model.eval()\n" + _STEP, "leaves the model in evaluation mode"),
    ("method", "model_unmodified", _MAPS, "        model.head.bias.mul_(0.9)\n" + _MAPS, "`score` changes head.bias"),
    ("method", "global_state_unchanged", _STEP, "        torch.manual_seed(0)\n" + _STEP, "sets the torch random seed"),
    ("method", "global_state_unchanged", _MAPS, "        torch.set_num_threads(3)\n" + _MAPS, "sets the torch threads"),
    ("method", "global_state_unchanged", _MAPS, "        import os\n        os.environ['X_'] = 'x'\n" + _MAPS, "environment"),
    ("method", "global_state_unchanged", "        model = nn", "        __import__('numpy').random.seed(0)\n        model = nn",
     "`build` sets the numpy random seed"),
    ("method", "writes_nothing", _MAPS, _MAPS + "        open('maps.txt', 'w').close()\n", "it writes maps.txt"),
    ("method", "writes_nothing", _MAPS, _MAPS + "        torch.save(maps, 'maps.pt')\n", "it writes maps.pt"),
    ("method", "stays_offline", _MAPS,
     _MAPS + "        import socket\n        \n        with socket.socket() as host:\n            host.connect_ex(('127.0.0.1', 9))\n", "it calls 127.0.0.1"),
    ("method", "masks_unseen", _STEP,
     "        from harness.data.toy import cache_folder\n        (cache_folder() / 'toy-1' / 'SegmentationClass' / "
     "f'{batch.ids[0]}.png').read_bytes()\n" + _STEP, "in SegmentationClass"),
    ("method", "runs_on_toy", _MAPS, "        assert len(images) < 8\n" + _MAPS, "the stage score failed"),
    ("refiner", "keeps_shape", _REFINED, "return (sharp / sharp.sum(0)).transpose(0, 2, 1)", "become (3, "),
    ("refiner", "keeps_shape", _REFINED, "return sharp.argmax(0)", "become (64, 80)"),
    ("refiner", "stays_probable", _REFINED, "return sharp", "over the channels"),
    ("refiner", "refines_the_same", "self.params.power\n", "self.params.power * np.random.rand(1)\n", "differ"),
    ("refiner", "refiner_input_unmodified", _SHARP, "        probabilities /= 2\n" + _SHARP, "changes its input"),
    ("refiner", "uses_its_settings", "self.params.power", "2", "none of power changes"),
    ("refiner", "constant_image", _SHARP, "        image = image / image.std()\n        probabilities = probabilities * image[..., 0]\n" + _SHARP, ""),
    ("refiner", "background_alone", _SHARP, "        probabilities[1]\n" + _SHARP, "IndexError"),
    ("refiner", "refiner_leaves_no_trace", _SHARP, "        np.random.seed(0)\n" + _SHARP, "numpy random seed"),
    ("refiner", "refiner_leaves_no_trace", _SHARP, "        __import__('tempfile').TemporaryFile().close()\n" + _SHARP, "`refine` writes"),
    ("refiner", "refines_on_toy", _SHARP, "        assert image.shape[0] < 80\n" + _SHARP, "the stage mask failed"),
    ("dataset", "prepares", "        if self.root.exists", "        raise OSError('gone')\n        if self.root.exists", "OSError: gone"),
    ("dataset", "classes_named", '("background", "square")', '("square", "background")', "classes are square"),
    ("dataset", "splits_exist", '["train", "val"]', '["train"]', "there is no split 'val'"),
    ("dataset", "images_open", "save_mask(self.mask_path(image_id), mask)", "save_mask(self.mask_path(image_id), mask[:9])",
     ""),
    ("dataset", "content_is_stable", "mask[16:48", "mask[np.random.randint(40):48", "other images"),
    ("dataset", "truth_scores_full", "return [1]", "return []", ""),
]  # fmt: skip

from __future__ import annotations

import subprocess
import sys

NEEDED = "import torch, torchvision"
MENDED = f"from harness.torchvision_ops import ensure_importable\nprint(ensure_importable())\n{NEEDED}"


def test_the_patch_is_applied_exactly_where_torchvision_needs_it() -> None:
    """Fails when the patch is no longer needed, or no longer enough."""
    plain = subprocess.run([sys.executable, "-c", NEEDED], capture_output=True, text=True, check=False)
    mended = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", MENDED], capture_output=True, text=True, check=False
    )
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.strip() == str(plain.returncode != 0)

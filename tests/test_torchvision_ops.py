from __future__ import annotations

import subprocess
import sys

NEEDED = "import torch, torchvision"
FIXED = f"from harness.torchvision_ops import ensure_importable\nprint(ensure_importable())\n{NEEDED}"


def test_the_patch_is_applied_exactly_where_torchvision_needs_it() -> None:
    """Fails when the patch is no longer needed, or no longer enough."""
    plain = subprocess.run([sys.executable, "-c", NEEDED], capture_output=True, text=True, check=False)
    fixed = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", FIXED], capture_output=True, text=True, check=False
    )
    assert fixed.returncode == 0, fixed.stderr
    assert fixed.stdout.strip() == str(plain.returncode != 0)

"""The network of ViT-PCM: patch features, HV-BiLSTM, patch classifier (paper, section 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PCMNet(nn.Module):
    """Patch-class mapping: a probability over the classes for every patch.

    Parameters
    ----------
    backbone : Backbone
    num_classes : int
        Background included.
    hidden : int
        Width of each LSTM; 0 leaves the HV-BiLSTM out.
    dropout : float
        Before the HV-BiLSTM, on its LSTMs' inputs, and before the classifier.
    init_std : float
        Standard deviation of the classifier's initial kernel.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, hidden: int, dropout: float, init_std: float) -> None:
        super().__init__()
        self.backbone = backbone
        dim = int(backbone.dim)  # type: ignore[arg-type]
        self.condition = HVBiLSTM(dim, hidden, dropout) if hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(4 * hidden or dim, num_classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=init_std)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, num_classes, h, w) probabilities of (B, 3, H, W) images in [0, 1] (equation 2)."""
        features = self.condition(self.backbone(images))
        return self.classifier(self.dropout(features)).softmax(1)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return [*self.condition.parameters(), *self.classifier.parameters()]


class HVBiLSTM(nn.Module):
    """Conditions every patch on those of its row and its column (section 5, HV-BiLSTM).

    One bidirectional LSTM reads the rows, another the columns; their outputs are concatenated and replace the features.
    As in Keras there is one bias per gate, 1 for the forget gate at first; it is the kernel's last input, a constant.

    Parameters
    ----------
    dim : int
        Channels in.
    hidden : int
        Channels out per direction; 4 * hidden in all.
    dropout : float
        On the features, and again on the inputs of each LSTM.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.rows = nn.ModuleList([_lstm(dim, hidden) for _ in range(2)])
        self.columns = nn.ModuleList([_lstm(dim, hidden) for _ in range(2)])

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, dim, h, w) to (B, 4 * hidden, h, w)."""
        grid = functional.dropout(features, self.dropout, self.training).permute(0, 2, 3, 1)
        rows = self._both_ways(grid, self.rows)
        columns = self._both_ways(grid.transpose(1, 2), self.columns).transpose(1, 2)
        return torch.cat([rows, columns], -1).permute(0, 3, 1, 2)

    def _both_ways(self, grid: Tensor, lstms: nn.ModuleList) -> Tensor:
        """Run one LSTM along the third dimension of (B, n, m, dim), and one against it."""
        batch, lines, steps, dim = grid.shape
        sequences = grid.reshape(batch * lines, steps, dim)
        outputs = []
        for lstm, flip in zip(lstms, (False, True), strict=True):
            inputs = sequences.flip(1) if flip else sequences
            inputs = functional.dropout(inputs, self.dropout, self.training)
            output, _ = lstm(functional.pad(inputs, (0, 1), value=1.0))
            outputs.append(output.flip(1) if flip else output)
        return torch.cat(outputs, -1).reshape(batch, lines, steps, -1)


def _lstm(dim: int, hidden: int) -> nn.LSTM:
    """Return an LSTM over `dim` inputs and a constant, initialised as Keras does."""
    lstm = nn.LSTM(dim + 1, hidden, bias=False, batch_first=True)
    kernel, recurrent = lstm.all_weights[0]  # gates: input, forget, cell, output
    bound = (6 / (dim + 4 * hidden)) ** 0.5
    with torch.no_grad():
        kernel[:, :dim].uniform_(-bound, bound)
        kernel[:, dim] = 0.0
        kernel[hidden : 2 * hidden, dim] = 1.0
        nn.init.orthogonal_(recurrent)
    return lstm

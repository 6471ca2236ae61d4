"""Keys and values of tokens already seen, so that each new token costs one position."""

from __future__ import annotations

from torch import Tensor


class LayerCache:
    """One layer's keys and values; grows by doubling, so that appending is cheap."""

    def __init__(self) -> None:
        self.length = 0
        self._kv: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add [B, H, T, d] each; gives all keys and values so far."""
        end = self.length + k.shape[2]
        if self._kv is None or self._kv.shape[3] < end:
            b, h, _, d = k.shape
            grown = k.new_empty(2, b, h, max(64, 2 * end), d)
            if self._kv is not None:
                grown[:, :, :, : self.length] = self._kv[:, :, :, : self.length]
            self._kv = grown
        self._kv[0, :, :, self.length : end] = k
        self._kv[1, :, :, self.length : end] = v
        self.length = end
        return self._kv[0, :, :, :end], self._kv[1, :, :, :end]


class KeyValueCache:
    """The caches of all layers of one batch of sequences."""

    def __init__(self, n_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(n_layers)]

    @property
    def length(self) -> int:
        return self.layers[0].length

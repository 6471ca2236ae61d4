"""A federation beside the other ways of training, in words: for the terminal and for the page."""

from __future__ import annotations

from photon.report.console import beside, format_bytes


def loss_line(federated: float, centralized: float | None, alone: float | None) -> str | None:
    """Validation losses as ratios; None where nothing was trained beside the federation."""
    others = {"centralised": centralized, "one client alone": alone}
    ratios = [f"{federated / loss:.3f} x {name}" for name, loss in others.items() if loss]
    return f"federated loss is {' and '.join(ratios)}" if ratios else None


def bytes_line(up: float, down: float, ddp: float) -> str | None:
    """Bytes of a federation, and those of data-parallel training of the same steps; None where
    nothing was sent.
    """
    if not up + down:
        return None
    sent = f"sent {format_bytes(up)} up and {format_bytes(down)} down"
    if not ddp:
        return f"{sent}; data-parallel training would have sent none"
    return f"{sent}: {beside(up + down, ddp, 'data-parallel training')} ({format_bytes(ddp)})"


def epsilon_line(
    epsilon: float | None, delta: float | None, of_updates: float | None
) -> str | None:
    """What a private run's parameters tell of a client, at the most; None: it is not private.

    Args:
        of_updates: what holds against a server that keeps every update, if clients add the noise.
    """
    if epsilon is None:
        return None
    beside = "" if of_updates is None else f"; {of_updates:.4g} for who keeps every update"
    return f"private: epsilon {epsilon:.4g} at delta {delta or 0:g}, of all rounds together{beside}"

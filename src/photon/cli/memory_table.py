"""What takes the memory of a process, and when: a table of stages and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from photon.training.memory import Memory


def memory_table(memory: Memory, whose: str) -> Any:
    """A row for each part, a column for each stage of a round; its highest total is the peak."""
    from rich import box
    from rich.table import Table

    from photon.console import format_bytes

    stages = [stage.parts("cpu") for stage in memory.stages]
    table = Table(box=box.SIMPLE_HEAD, show_footer=True)
    table.add_column(f"memory of {whose}", footer="in all")
    for stage in memory.stages:
        total = format_bytes(stage.total("cpu"))
        table.add_column(stage.name, footer=total, justify="right", no_wrap=True)
    for part in dict.fromkeys(name for parts in stages for name in parts):
        sizes = [parts.get(part, 0) for parts in stages]
        table.add_row(part, *(format_bytes(size) if size else "" for size in sizes))
    return table

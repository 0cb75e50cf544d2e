"""The journal of a run, `journal.jsonl`: a line for each change of its circumstances that may change its numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from gankit.core.runtime.tensor_files import write_advice

FILE = "journal.jsonl"


def note(run: Path, nimg: int, event: str, before: Any, after: Any) -> None:
    """Append a line to the journal.

    Args:
        run: folder of the run.
        nimg: images trained so far.
        event: short name of what changed, such as 'op_backends'.
        before: JSON value until now.
        after: JSON value from now on.

    Raises GankitError if the file cannot be written.
    """
    line = {"nimg": nimg, "time": round(time.time(), 1), "event": event, "before": before, "after": after}
    with write_advice(run), open(run / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")

"""Choose a mode for each prompt: `mode="auto"`."""

from langchain_sift.auto_mode.choice import (
    AUTO,
    TOLERANCE,
    UNRELATED_GAIN,
    ModeChoice,
    choose_mode,
)
from langchain_sift.auto_mode.settings import TableSettings
from langchain_sift.auto_mode.table import (
    ModeBin,
    ModeFigures,
    ModeTable,
    PromptFigures,
    check_table,
    table_of,
)

__all__ = [
    "AUTO",
    "TOLERANCE",
    "UNRELATED_GAIN",
    "ModeBin",
    "ModeChoice",
    "ModeFigures",
    "ModeTable",
    "PromptFigures",
    "TableSettings",
    "check_table",
    "choose_mode",
    "table_of",
]

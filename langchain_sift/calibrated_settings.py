"""What a calibration chose, in a file that the retriever, the models and `compare` read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from langchain_sift.checks import check_integer
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError

VERSION = 1
"""Of the file's format."""


@dataclass(frozen=True, slots=True)
class CalibratedSettings:
    """What suits one store and one model: `SIFTRetriever` takes some of it, training the rest."""

    noise_variance: float
    """λ'."""

    learning_rate: float
    k: int
    """Documents for a prompt."""

    fetch_k: int
    """Candidates that they were chosen from."""

    lora_rank: int
    lora_alpha: float
    max_length: int
    """Tokens of a document."""

    model: str
    """A name on the hub, or a folder."""

    protocol: str
    """What was calibrated on: "document" or "continuation"."""

    seed: int
    """Of the adapter's initial weights, and of which documents were held out."""

    def __post_init__(self) -> None:
        """Reject what cannot be a setting.

        Raises:
            ArgumentError: If a value is of another type or out of range.
        """
        for name in ("noise_variance", "learning_rate", "lora_alpha"):
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            if not (good and math.isfinite(value) and value > 0):
                raise ArgumentError(f"{name} must be positive and finite, got {value!r}")
            object.__setattr__(self, name, float(value))
        for name, lowest in (("k", 1), ("fetch_k", 1), ("lora_rank", 1), ("max_length", 2)):
            check_integer(name, getattr(self, name), lowest)
        check_integer("seed", self.seed, 0)
        for name in ("model", "protocol"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ArgumentError(f"{name} must be a name, got {getattr(self, name)!r}")

    def finetune_config(self) -> FineTuneConfig:
        """Return how the model is to learn."""
        return FineTuneConfig(
            learning_rate=self.learning_rate,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            max_length=self.max_length,
            seed=self.seed,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the format's version."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, found: Any) -> CalibratedSettings:
        """Return the settings of such values.

        Raises:
            ArgumentError: If one is missing, unknown or out of range, or the version is another.
        """
        if not isinstance(found, Mapping):
            raise ArgumentError(
                f"settings must be an object with names and values, got {type(found).__name__}"
            )
        values = dict(found)
        version = values.pop("version", None)
        if version != VERSION or isinstance(version, bool):
            raise ArgumentError(
                f"these settings have version {version!r}, and {VERSION} is read: calibrate again"
            )
        known = {field.name for field in fields(cls)}
        for problem, names in (("unknown", values.keys() - known), ("no", known - values.keys())):
            if names:
                raise ArgumentError(
                    f"these settings have {problem} {', '.join(sorted(map(str, names)))}"
                )
        return cls(**values)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write a JSON file.

        Raises:
            ArgumentError: If it is there already, or cannot be written.
        """
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        try:
            with Path(path).open("w" if overwrite else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ArgumentError(
                f"{path} is there already: name another file, or overwrite it"
            ) from error
        except OSError as error:
            raise ArgumentError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path | str) -> CalibratedSettings:
        """Read such a file.

        Raises:
            ArgumentError: If it cannot be read, or is not what `save` writes.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ArgumentError(f"{path} cannot be read: {error.strerror}") from error
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from error
        except ValueError as error:
            raise ArgumentError(f"{path} is no file that `calibrate` wrote: {error}") from error


def read_settings(settings: CalibratedSettings | Path | str) -> CalibratedSettings:
    """Return settings that may be given as what they are, or as the file that they are in.

    Raises:
        ArgumentError: As `CalibratedSettings.load` does.
    """
    if isinstance(settings, CalibratedSettings):
        return settings
    return CalibratedSettings.load(settings)

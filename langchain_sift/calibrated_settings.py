"""Save the settings that a calibration chose, for the retriever, the models and `compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from langchain_sift.checks import check_integer, check_positive
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError

VERSION = 1
"""The version of the file format."""


@dataclass(frozen=True, slots=True)
class CalibratedSettings:
    """The settings for one store and one model, for `SIFTRetriever` and for fine-tuning."""

    noise_variance: float
    """λ' of SIFT."""

    learning_rate: float
    k: int
    """Number of documents for a prompt."""

    fetch_k: int
    """Number of candidates to choose them from."""

    lora_rank: int
    lora_alpha: float
    max_length: int
    """Maximum number of tokens of a document to train on."""

    model: str
    """Name of the model on the Hugging Face hub, or its folder."""

    protocol: str
    """Protocol of the calibration: "document" or "continuation"."""

    seed: int
    """Seed of the adapter's initial weights and of the held-out documents."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is of another type or out of range.
        """
        for name in ("noise_variance", "learning_rate", "lora_alpha"):
            check_positive(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, lowest in (("k", 1), ("fetch_k", 1), ("lora_rank", 1), ("max_length", 2)):
            check_integer(name, getattr(self, name), lowest)
        check_integer("seed", self.seed, 0)
        for name in ("model", "protocol"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise ArgumentError(f"{name} must be a name, got {getattr(self, name)!r}")

    def finetune_config(self) -> FineTuneConfig:
        """Return the settings of fine-tuning."""
        return FineTuneConfig(
            learning_rate=self.learning_rate,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            max_length=self.max_length,
            seed=self.seed,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the values and the format's version as a JSON object."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, json_object: object) -> CalibratedSettings:
        """Make settings from the JSON object that `to_json` returns.

        Raises:
            ArgumentError: If a value is missing, unknown or out of range, or the version differs.
        """
        if not isinstance(json_object, Mapping):
            raise ArgumentError(
                "settings must be an object with names and values, got "
                f"{type(json_object).__name__}"
            )
        values = dict(json_object)
        version = values.pop("version", None)
        if version != VERSION or isinstance(version, bool):
            raise ArgumentError(
                f"these settings have version {version!r}, expected {VERSION}: calibrate again"
            )
        known = {field.name for field in fields(cls)}
        for problem, names in (("unknown", values.keys() - known), ("no", known - values.keys())):
            if names:
                listed = ", ".join(sorted(map(str, names)))
                raise ArgumentError(f"these settings have {problem} {listed}: calibrate again")
        return cls(**values)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the settings to a JSON file.

        Args:
            path: The file.
            overwrite: If True, replace an existing file.

        Raises:
            ArgumentError: If the file already exists, or cannot be written.
        """
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        try:
            with Path(path).open("w" if overwrite else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ArgumentError(
                f"{path} already exists: name another file, or overwrite it"
            ) from error
        except OSError as error:
            raise ArgumentError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path | str) -> CalibratedSettings:
        """Read the settings from a file that `save` wrote.

        Raises:
            ArgumentError: If the file cannot be read, or `save` did not write it.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ArgumentError(f"{path} cannot be read: {error.strerror}") from error
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from error
        except ValueError as error:
            raise ArgumentError(f"{path} is not a settings file of `calibrate`: {error}") from error


def read_settings(settings: CalibratedSettings | Path | str) -> CalibratedSettings:
    """Return the settings; a path names the file to load them from.

    Raises:
        ArgumentError: As `CalibratedSettings.load` does.
    """
    if isinstance(settings, CalibratedSettings):
        return settings
    return CalibratedSettings.load(settings)

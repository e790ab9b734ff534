"""Save the settings that calibrations chose, for the retriever, the models and the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from langchain_sift.auto_mode import ModeTable
from langchain_sift.checks import as_target_modules, check_choice, check_integer, check_positive
from langchain_sift.config import KERNELS, MODES, OBJECTIVES, FineTuneConfig
from langchain_sift.errors import ArgumentError

VERSION = 2
"""The version of the file format."""

Section = TypeVar("Section")


@dataclass(frozen=True, slots=True)
class CalibratedSelection:
    """The settings that choose documents: fields of `SIFTRetriever`."""

    noise_variance: float
    """λ' of SIFT."""

    k: int
    """Number of documents for a prompt."""

    fetch_k: int
    """Number of candidates to choose them from."""

    kernel: str = "linear"
    """"linear" or "rbf"."""

    length_scale: float | None = None
    """ℓ of the kernel "rbf". None means the default."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is of another type or out of range.
        """
        _check_number(self, "noise_variance")
        _check_integers(self, k=1, fetch_k=1)
        check_choice("kernel", self.kernel, KERNELS)
        _check_number(self, "length_scale", optional=True)


@dataclass(frozen=True, slots=True)
class CalibratedFineTuning:
    """The settings that fine-tune a model on documents."""

    selection: CalibratedSelection
    """The settings that choose the documents to train on."""

    learning_rate: float | None
    """None means the default: the rate that each prompt's first gradient sets."""

    lora_rank: int
    lora_alpha: float
    max_length: int
    """Maximum number of tokens of a document to train on."""

    model: str
    """Name of the model on the Hugging Face hub, or its folder."""

    protocol: str
    """Protocol of the calibration: "document", "continuation" or "qa"."""

    seed: int
    """Seed of the adapter's initial weights and of the held-out documents."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter, as `FineTuneConfig.target_modules`."""

    steps_per_document: int = 1
    """Gradient steps on each document."""

    objective: str = "text"
    """Part of the documents that the model learns, as `FineTuneConfig.objective`."""

    mode: str | None = None
    """The mode that predicted held-out prompts best: "base", "rag", "ttft" or "both". None means
    not compared."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is of another type or out of range.
        """
        _check_number(self, "lora_alpha")
        _check_number(self, "learning_rate", optional=True)
        _check_integers(self, lora_rank=1, max_length=2, seed=0, steps_per_document=1)
        _check_names(self, "model", "protocol")
        object.__setattr__(self, "target_modules", as_target_modules(self.target_modules))
        check_choice("objective", self.objective, OBJECTIVES)
        if self.mode is not None:
            check_choice("mode", self.mode, MODES)


@dataclass(frozen=True, slots=True)
class CalibratedSettings:
    """The settings for one store and its embeddings, and for one model if one was calibrated."""

    retrieval: CalibratedSelection | None = None
    """The settings of retrieval for a reader or a prompt's context. None means not calibrated."""

    fine_tuning: CalibratedFineTuning | None = None
    """The settings of fine-tuning. None means not calibrated."""

    modes: ModeTable | None = None
    """The gain and the time of each mode, for `mode="auto"`. None means not measured."""

    def __post_init__(self) -> None:
        """Check that there is a section.

        Raises:
            ArgumentError: If there is none.
        """
        if self.retrieval is None and self.fine_tuning is None:
            # A table of modes alone is of no use: it was measured with one of these.
            raise ArgumentError(
                "these settings have neither retrieval nor fine_tuning: calibrate again"
            )

    @property
    def model(self) -> str | None:
        """Name of the calibrated model; None if only retrieval was calibrated."""
        return None if self.fine_tuning is None else self.fine_tuning.model

    @property
    def mode(self) -> str | None:
        """The mode that predicted held-out prompts best; None if none were compared."""
        return None if self.fine_tuning is None else self.fine_tuning.mode

    def selection(self, *, for_training: bool = False) -> CalibratedSelection:
        """Return the settings that choose documents.

        Args:
            for_training: If True, a model is fine-tuned on the documents. The settings of the
                other use are returned if this one was not calibrated.
        """
        trained = None if self.fine_tuning is None else self.fine_tuning.selection
        first, second = (trained, self.retrieval) if for_training else (self.retrieval, trained)
        return next(each for each in (first, second) if each is not None)

    def finetune_config(self) -> FineTuneConfig:
        """Return the settings of fine-tuning; the defaults if only retrieval was calibrated."""
        tuned = self.fine_tuning
        if tuned is None:
            return FineTuneConfig()
        return FineTuneConfig(
            learning_rate=tuned.learning_rate,
            lora_rank=tuned.lora_rank,
            lora_alpha=tuned.lora_alpha,
            target_modules=tuned.target_modules,
            steps_per_document=tuned.steps_per_document,
            objective=tuned.objective,
            max_length=tuned.max_length,
            seed=tuned.seed,
        )

    def updated(self, newer: CalibratedSettings) -> CalibratedSettings:
        """Return newer settings, with the sections of these settings that the newer ones lack.

        The table of modes was measured with the settings of fine-tuning, and is kept only if these
        are kept.
        """
        is_same_tuning = self.fine_tuning is not None and newer.fine_tuning is None
        return CalibratedSettings(
            newer.retrieval or self.retrieval,
            newer.fine_tuning or self.fine_tuning,
            newer.modes or (self.modes if is_same_tuning else None),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the sections that were calibrated and the format's version as a JSON object."""
        sections = {name: value for name, value in asdict(self).items() if value is not None}
        return {"version": VERSION, **sections}

    @classmethod
    def from_json(cls, json_object: object) -> CalibratedSettings:
        """Make settings from the JSON object that `to_json` returns.

        Raises:
            ArgumentError: If a value is missing, unknown or out of range, or the version differs.
        """
        values = dict(_object("settings", json_object))
        version = values.pop("version", None)
        if version != VERSION or isinstance(version, bool):
            raise ArgumentError(
                f"these settings have version {version!r}, expected {VERSION}: calibrate again"
            )
        if "retrieval" in values:
            values["retrieval"] = _section(CalibratedSelection, "retrieval", values["retrieval"])
        if "fine_tuning" in values:
            tuned = dict(_object("fine_tuning", values["fine_tuning"]))
            if "selection" in tuned:
                tuned["selection"] = _section(CalibratedSelection, "selection", tuned["selection"])
            values["fine_tuning"] = _section(CalibratedFineTuning, "fine_tuning", tuned)
        if "modes" in values:
            values["modes"] = ModeTable.from_json(values["modes"])
        return _section(cls, "settings", values)

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
            raise ArgumentError(f"{path} already exists: name another, or overwrite it") from error
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
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"{path} is not a settings file of `calibrate`: {error}") from error


def read_settings(settings: CalibratedSettings | Path | str) -> CalibratedSettings:
    """Return the settings; a path names the file to load them from.

    Raises:
        ArgumentError: As `CalibratedSettings.load` does, and for a value of another type.
    """
    if isinstance(settings, CalibratedSettings):
        return settings
    if not isinstance(settings, Path | str):
        raise ArgumentError(
            f"settings must be CalibratedSettings or their file, got a {type(settings).__name__}"
        )
    return CalibratedSettings.load(settings)


def _object(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ArgumentError(
            f"{name} must be an object with names and values, got {type(value).__name__}"
        )
    return value


def _section(section: type[Section], name: str, value: object) -> Section:
    """Make a section of its values.

    Raises:
        ArgumentError: If a value is missing, unknown or out of range.
    """
    values = _object(name, value)
    known = {field.name for field in fields(section)}  # type: ignore[arg-type]
    needed = {field.name for field in fields(section) if field.default is MISSING}  # type: ignore[arg-type]
    for problem, names in (("unknown", values.keys() - known), ("no", needed - values.keys())):
        if names:
            listed = ", ".join(sorted(map(str, names)))
            raise ArgumentError(f"{name} with {problem} {listed}: calibrate again")
    return section(**values)


def _check_number(section: object, name: str, *, optional: bool = False) -> None:
    """Check a positive number, and make it a float; with `optional`, it may be None."""
    value = getattr(section, name)
    check_positive(name, value, optional=optional)
    object.__setattr__(section, name, None if value is None else float(value))


def _check_integers(section: CalibratedSelection | CalibratedFineTuning, **lowest: int) -> None:
    for name, bound in lowest.items():
        check_integer(name, getattr(section, name), bound)


def _check_names(section: CalibratedSelection | CalibratedFineTuning, *names: str) -> None:
    for name in names:
        if not (isinstance(getattr(section, name), str) and getattr(section, name)):
            raise ArgumentError(f"{name} must be a name, got {getattr(section, name)!r}")

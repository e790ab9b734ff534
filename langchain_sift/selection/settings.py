"""Define the settings of a selection, and check them.

Axes: n candidates, k choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Required, TypedDict

import numpy as np

from langchain_sift.checks import check_choice, check_count, check_positive
from langchain_sift.config import KERNELS
from langchain_sift.errors import ArgumentError
from langchain_sift.selection.arguments import check_arguments, check_numbers

LEAST_LENGTH_SCALE = 1e-3
UNRELATED_COSINE = 0.274
"""The cosine of texts that are hardly related. With the linear kernel and λ' = 6.5, one of them
explains 1 % of the other's variance."""

DEFAULT_LENGTH_SCALE = 0.5
"""ℓ of the kernel "rbf", at which texts of the cosine 0.75 have the covariance 1 / e."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: the prior covariance of two texts, as a function of their embeddings."""

    name: str = "linear"
    """"linear", xᵀx', or "rbf", exp(−‖x − x'‖² / (2 ℓ²)): Rasmussen & Williams (2006), eq. 4.9.
    For unit vectors the latter is exp((cos − 1) / ℓ²)."""

    length_scale: float = DEFAULT_LENGTH_SCALE
    """ℓ, positive; without effect on the linear kernel."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If the kernel is unknown, or the length scale not positive.
        """
        check_choice("kernel", self.name, KERNELS)
        check_positive("length_scale", self.length_scale)
        if self.length_scale < LEAST_LENGTH_SCALE:
            raise ArgumentError(
                f"length_scale must be at least {LEAST_LENGTH_SCALE}, got {self.length_scale!r}: "
                "below it, all texts are unrelated"
            )
        object.__setattr__(self, "length_scale", float(self.length_scale))

    @property
    def is_linear(self) -> bool:
        """True for the linear kernel."""
        return self.name == "linear"

    @property
    def error_factor(self) -> float:
        """The factor by which the kernel enlarges the rounding of a product of unit vectors."""
        return 1.0 if self.is_linear else max(1.0, self.length_scale**-2)

    def of_products(self, xp: Any, products: Any, left: Any, right: Any) -> Any:
        """Compute the kernel from inner products.

        Args:
            xp: The namespace of the arrays.
            products: xᵀx', of any shape.
            left: ‖x‖², of a shape that broadcasts to that of the products.
            right: ‖x'‖², likewise.
        """
        if self.is_linear:
            return products
        # ‖x − x'‖² = ‖x‖² + ‖x'‖² − 2 xᵀx', which rounding can take a little below zero.
        halved = abs(products - 0.5 * (left + right))
        return xp.exp(halved * -(self.length_scale**-2))


class SelectionOptions(TypedDict, total=False):
    """The keyword arguments of every method; see `langchain_sift.selection.select`."""

    k: Required[int]
    noise_variance: Any
    kernel: str
    length_scale: float
    replace: bool
    stopping_alpha: float | None
    costs: Any
    max_cost: float | None
    groups: Any
    max_per_group: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectionSettings:
    """The settings of a selection, checked; `select` explains them."""

    k: int
    noise_variance: Any = 0.01
    kernel: str = "linear"
    length_scale: float = DEFAULT_LENGTH_SCALE
    replace: bool = False
    stopping_alpha: float | None = None
    costs: Any = None
    max_cost: float | None = None
    groups: Any = None
    max_per_group: int | None = None
    kernel_function: Kernel = field(init=False)
    """The kernel with its length scale."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ArgumentError: If a value is out of range.
        """
        object.__setattr__(self, "kernel_function", Kernel(self.kernel, self.length_scale))
        check_arguments(self.k, self.noise_variance, self.stopping_alpha)
        if self.costs is not None:
            check_numbers("costs", self.costs)
        check_positive("max_cost", self.max_cost, optional=True)
        if self.max_cost is not None and self.costs is None:
            raise ArgumentError("max_cost needs costs: a number for each candidate")
        if (self.groups is None) != (self.max_per_group is None):
            raise ArgumentError("groups and max_per_group need each other: pass both or neither")
        if self.max_per_group is not None:
            check_count("max_per_group", self.max_per_group)

    @property
    def unrelated_gain(self) -> float:
        """The share of a query's variance that a text at the cosine 0.27 explains alone.

        Such a text has hardly anything to do with the query. The share depends on the kernel, and
        falls as λ' grows: κ² / (1 + λ') for the covariance κ. λ' must be one number.
        """
        covariance = float(self.kernel_function.of_products(np, UNRELATED_COSINE, 1.0, 1.0))
        return covariance**2 / (1.0 + float(self.noise_variance))

    def options(self) -> SelectionOptions:
        """Return the settings as keyword arguments of a method."""
        return {
            "k": self.k,
            "noise_variance": self.noise_variance,
            "kernel": self.kernel,
            "length_scale": self.length_scale,
            "replace": self.replace,
            "stopping_alpha": self.stopping_alpha,
            "costs": self.costs,
            "max_cost": self.max_cost,
            "groups": self.groups,
            "max_per_group": self.max_per_group,
        }

"""Check that gradients pass the frozen layers of a model, before anybody trains on it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from langchain_sift.errors import ArgumentError
from langchain_sift.ttft.model.language_model import LanguageModel
from langchain_sift.ttft.training.adapted_model import share_weights
from langchain_sift.ttft.training.target_layers import find_target_layers

_passed: weakref.WeakKeyDictionary[PreTrainedModel, set[str | tuple[str, ...]]]
_passed = weakref.WeakKeyDictionary()
_checking = threading.Lock()

_LENGTH = 8
# Lengths of a step against the gradient, relative to the outputs of the layers.
_STEPS = (0.1, 0.01, 0.5, 0.001)


def check_gradients(language_model: LanguageModel, targets: str | tuple[str, ...]) -> None:
    """Check that the gradient of a loss reaches the first adapted layer, and lowers the loss.

    A model is tried once for each choice of layers.

    Layers that are quantized for inference only, such as those of FP8, compute no gradient of
    their inputs: adapters below them would be trained to no effect. It takes a forward and a
    backward pass of eight tokens, and a forward pass after the step, on a copy of the modules over
    the same weights.

    Args:
        language_model: The model.
        targets: The layers that get adapters, as `FineTuneConfig.target_modules`.

    Raises:
        ArgumentError: If no gradient arrives, and the message names the type of the layer that
            none passes; or if the loss does not fall.
    """
    with _checking:
        passed = _passed.setdefault(language_model.model, set())
        if targets not in passed:
            _check(language_model, targets)
            passed.add(targets)


def _check(language_model: LanguageModel, targets: str | tuple[str, ...]) -> None:
    with torch.inference_mode(mode=False), torch.enable_grad():
        probe = _Probe(language_model, targets)
        with probe.hooks():
            loss = probe.loss()
            gradients = probe.gradients(loss)
            if blocking := probe.blocking_layer(gradients):
                raise ArgumentError(
                    f"{language_model.name} cannot be fine-tuned: no gradient passes its layers of "
                    f"the type {blocking}, which are made for inference only; load the "
                    "unquantized model, with quantization='4bit' if memory is short, or answer "
                    "without fine-tuning (mode base or rag)"
                )
            if not any(probe.loss_after(step, gradients) < loss for step in _STEPS):
                raise ArgumentError(
                    f"{language_model.name} cannot be fine-tuned: the loss of a text, "
                    f"{float(loss.detach()):.4g}, does not fall with a step against its gradient"
                )


class _Probe:
    """A copy of the model's modules that adds a tensor to the output of each target layer.

    The tensors are zero at first, and stand for what adapters would add.
    """

    def __init__(self, language_model: LanguageModel, targets: str | tuple[str, ...]) -> None:
        self._model: Any = share_weights(language_model.model)
        self._modules = dict(self._model.named_modules())
        self._names = find_target_layers(self._model, targets).names
        size, device = language_model.vocabulary_size, language_model.device
        token_ids = torch.arange(1, _LENGTH + 1, device=device) * size // (_LENGTH + 2)
        self._token_ids = token_ids
        self._outputs: dict[str, float] = {}
        """Norms of the outputs of layers, in the order in which they are computed."""
        self._added: dict[str, torch.Tensor] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Add the tensors to the outputs."""
        handles = []
        for name in self._names:
            # Of experts, a name is that of their weights.
            module = self._modules.get(name) or self._modules[name.rpartition(".")[0]]
            hook = module.register_forward_hook(lambda *call, key=name: self._add(key, call[-1]))
            handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, name: str, output: torch.Tensor) -> torch.Tensor:
        if name not in self._added:
            self._added[name] = torch.zeros_like(output).requires_grad_()
            self._outputs[name] = float(output.detach().float().norm())
        return output + self._added[name]

    def loss(self) -> torch.Tensor:
        """Return the mean loss of the tokens after the first."""
        logits = self._model(input_ids=self._token_ids[None], use_cache=False).logits[0].float()
        return functional.cross_entropy(logits[:-1], self._token_ids[1:].to(logits.device))

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Return the gradient at the output of each layer, None where none arrives."""
        if not loss.requires_grad:
            return dict.fromkeys(self._added)
        found = torch.autograd.grad(loss, list(self._added.values()), allow_unused=True)
        return {
            name: gradient if gradient is not None and bool(gradient.any()) else None
            for name, gradient in zip(self._added, found, strict=True)
        }

    def blocking_layer(self, gradients: Mapping[str, torch.Tensor | None]) -> str | None:
        """Return the type of the layer that no gradient passes; None if it reaches the first."""
        names = list(gradients)
        if not names or gradients[names[0]] is not None:
            return None
        above = 1 + max(i for i, name in enumerate(names) if gradients[name] is None)
        module: nn.Module = (
            self._modules[names[above]]
            if above < len(names)
            else self._model.get_output_embeddings()
        )
        return type(module).__name__

    @torch.no_grad()
    def loss_after(self, step: float, gradients: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
        """Return the loss after a step of this length against the gradient."""
        for name, gradient in gradients.items():
            if gradient is not None:
                length = step * self._outputs[name] / gradient.float().norm()
                self._added[name] = -length.to(gradient.dtype) * gradient
        return self.loss()

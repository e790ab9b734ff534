"""Check that gradients pass the frozen layers of a model, before anybody trains on it."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
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
# Layers of sparse attention whose output only chooses the tokens that are read.
_CHOOSES_TOKENS = re.compile(r"(^|\.)indexer\.")


def check_gradients(language_model: LanguageModel, targets: str | tuple[str, ...]) -> None:
    """Check that the gradient of a loss reaches the adapted layers, and lowers the loss.

    A model is tried once for each choice of layers. Layers on which the loss of this text does
    not depend, such as experts that no token is sent to, are not checked.

    Layers that are quantized for inference only, such as those of FP8, compute no gradient of
    their inputs: adapters below them would be trained to no effect. It takes a forward and a
    backward pass of eight tokens, and a forward pass after the step, on a copy of the modules over
    the same weights. Layers without a gradient take two more forward passes, one with other
    outputs of theirs.

    Args:
        language_model: The model.
        targets: The layers that get adapters, as `FineTuneConfig.target_modules`.

    Raises:
        ArgumentError: If no gradient arrives at a layer, and the message names the type of the
            layer that none passes; or if the loss does not fall.
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
            if blocking := probe.blocking_layer(loss, gradients):
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

    The tensors are zero at first, and stand for what adapters would add. The adapters of experts
    are inside their module, so a tensor is added to its input as well.
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
        self._inputs: dict[str, torch.Tensor] = {}
        """The tensors added to the inputs of experts."""

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Add the tensors to the outputs."""
        handles = []
        for name in self._names:
            module = self._module(name)
            hook = module.register_forward_hook(lambda *call, key=name: self._add(key, call[-1]))
            handles.append(hook)
            if name not in self._modules:
                hook = module.register_forward_pre_hook(
                    lambda _, inputs, key=name: self._add_to_input(key, inputs)
                )
                handles.append(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _module(self, name: str) -> nn.Module:
        """Return the module of a layer; of experts, a name is that of their weights."""
        module: nn.Module = self._modules[
            name if name in self._modules else name.rpartition(".")[0]
        ]
        return module

    def _add_to_input(self, name: str, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not inputs or name in self._inputs:
            return inputs
        self._inputs[name] = torch.zeros_like(inputs[0]).requires_grad_()
        return inputs[0] + self._inputs[name], *inputs[1:]

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
        return self._gradients(loss, self._added)

    def blocking_layer(
        self, loss: torch.Tensor, gradients: Mapping[str, torch.Tensor | None]
    ) -> str | None:
        """Return the type of the last layer that no gradient passes; None if there is none."""
        for name, gradient in self._gradients(loss, self._inputs).items():
            if gradient is None:
                return type(self._module(name)).__name__
        names = list(gradients)
        missing = [
            number
            for number, name in enumerate(names)
            if gradients[name] is None and not _CHOOSES_TOKENS.search(name)
        ]
        if not self._matter(loss, [names[number] for number in missing]):
            return None
        above = max(missing) + 1
        module: nn.Module = (
            self._module(names[above])
            if above < len(names)
            else self._model.get_output_embeddings()
        )
        return type(module).__name__

    @staticmethod
    def _gradients(
        loss: torch.Tensor, tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor | None]:
        if not tensors or not loss.requires_grad:
            return dict.fromkeys(tensors)
        found = torch.autograd.grad(
            loss, list(tensors.values()), allow_unused=True, retain_graph=True
        )
        return dict(zip(tensors, found, strict=True))

    @torch.no_grad()
    def _matter(self, loss: torch.Tensor, names: Sequence[str]) -> bool:
        """Return True if the loss depends on the outputs of layers: the text reaches them."""
        if not names:
            return False
        zeros = {name: self._added[name] for name in names}
        for name, zero in zeros.items():
            ramp = torch.linspace(-100, 100, zero.numel(), device=zero.device).view(zero.shape)
            self._added[name] = (ramp * self._outputs[name] / zero.numel() ** 0.5).to(zero.dtype)
        changed = self.loss()
        self._added.update(zeros)
        noise = (self.loss() - loss).abs()  # zero where kernels compute the same each time
        return not bool((changed - loss).abs() <= 10 * noise)

    @torch.no_grad()
    def loss_after(self, step: float, gradients: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
        """Return the loss after a step of this length against the gradient."""
        for name, gradient in gradients.items():
            if gradient is not None and gradient.any():
                length = step * self._outputs[name] / gradient.float().norm()
                self._added[name] = -length.to(gradient.dtype) * gradient
        return self.loss()

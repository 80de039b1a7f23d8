"""Which parameters learn at which rate, and which are decayed."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from pfcvr.config import OptimizerConfig
from pfcvr.model.pfcvr import PfcvrModel

OFFICIAL_BIAS_FACTOR = 2.0


def parameter_groups(model: PfcvrModel, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups for a torch optimizer; every parameter is in one of them, and no group is empty.

    ``new_modules`` (paper, section V-B, larger for modules that start at random): towers at ``lr``, all heads at
    ``lr * new_module_factor``; vectors (biases, norms, single tokens) without decay. ``official``: the released code's
    choice among the heads, see ``_official_rates``; biases alone are not decayed.
    """
    rates = _official_rates(model, config) if config.rate_groups == "official" else _new_module_rates(model, config)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter, rate, decay in rates:
        group = groups.setdefault(name, {"name": name, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


Rates = Iterator[tuple[str, nn.Parameter, float, float]]
"""Group, parameter, rate, decay."""


def _new_module_rates(model: PfcvrModel, config: OptimizerConfig) -> Rates:
    for name, module, factor in (("towers", model.towers, 1.0), ("heads", model.heads, config.new_module_factor)):
        for parameter in module.parameters():
            kind, decay = ("matrices", config.weight_decay) if parameter.ndim > 1 else ("vectors", 0.0)
            yield f"{name}.{kind}", parameter, config.lr * factor, decay


def _official_rates(model: PfcvrModel, config: OptimizerConfig) -> Rates:
    """Classifier and vocabulary head: the larger rate, as have the weights of the word decoder's attention and blocks.
    Any other bias: twice the rate. All the rest, part decoder and patch decoder among it: the towers' rate."""
    word_decoder = model.heads.word_decoder
    layers = [word_decoder.cross_attention, word_decoder.blocks] if word_decoder else []
    outputs = [model.heads.classifier, word_decoder.head if word_decoder else None]
    of_layers = {parameter for module in layers for parameter in module.parameters()}
    of_outputs = {parameter for module in outputs if module for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        is_bias = name.endswith("bias")
        decay = 0.0 if is_bias else config.weight_decay
        if parameter in of_outputs:
            kind, factor = "outputs", config.new_module_factor
        elif is_bias:
            kind, factor = "rest", OFFICIAL_BIAS_FACTOR
        elif parameter in of_layers:
            kind, factor = "word layers", config.new_module_factor
        else:
            kind, factor = "rest", 1.0
        yield f"{kind}.{'biases' if is_bias else 'weights'}", parameter, config.lr * factor, decay

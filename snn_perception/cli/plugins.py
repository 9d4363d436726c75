"""``plugins``: every component with its options, and the shipped weights; ``plugins PRESET``: the model, counted."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import make_parser, print_json, print_rows, print_table, registry_of, run

if TYPE_CHECKING:
    from snn_perception.cost import ModelCost
    from snn_perception.registry import Component, Registered, Registry
    from snn_perception.spec import ModelSpec


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(_plugins, _parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "plugins", "List plugins, their components and the weights that are shipped, or tell about one."
    )
    parser.add_argument(
        "what",
        nargs="?",
        metavar="PRESET|WEIGHTS|KIND|KIND:NAME",
        help="a preset or shipped weights, to build and count the model; a kind of component, to list it; kind:name, "
        "for its options",
    )
    return parser


def _plugins(arguments: argparse.Namespace) -> None:
    from snn_perception.registry import KINDS

    registry = registry_of(arguments)
    kind, _, name = (arguments.what or "").partition(":")
    if kind in KINDS and name:
        _tell_component(registry.find(kind, name), as_json=arguments.json)
    elif kind in KINDS or not kind:
        _list(registry, (kind,) if kind else KINDS, as_json=arguments.json)
    else:
        _tell_model(arguments.what, registry, arguments)


def _list(registry: Registry, kinds: tuple[str, ...], *, as_json: bool) -> None:
    from snn_perception.registry import KINDS

    components = [_described(entry) for kind in kinds for entry in registry.entries(kind)]
    plugins = [{"id": plugin.id, "source": plugin.source, "error": plugin.error or None} for plugin in registry.plugins]
    weights = list(_weights())
    if as_json:
        print_json({"plugins": plugins, "components": components, "weights": weights})
        return
    rows = (
        (c["kind"], c["name"], c["plugin"], str(c["version"]), c["summary"], _options_text(c["options"], c["error"]))
        for c in components
    )
    print_table(("kind", "name", "plugin", "version", "summary", "options"), rows)
    if kinds != KINDS and not any(plugin.error for plugin in registry.plugins):
        return  # one kind was asked for, and none of it is missing
    print_table(("plugin", "from", "not in use"), ((p.id, p.source, p.error) for p in registry.plugins))
    if weights:
        cells = [[str(w[key] or "") for key in ("name", "preset", "data", "card", "error")] for w in weights]
        print_table(("shipped weights", "preset", "trained on", "model card", "cannot be read"), cells)


def _weights() -> Iterator[dict[str, Any]]:
    """Yield what the shipped weights tell of themselves; a damaged file is told of, not an end of the list."""
    from snn_perception.errors import CheckpointError
    from snn_perception.tensor_file import read_texts
    from snn_perception.zoo import card_path, shipped, shipped_path

    for name in shipped():
        run: dict[str, Any] = {}
        error = None
        try:
            run = json.loads(read_texts(shipped_path(name)).get("run", "{}"))
        except (CheckpointError, ValueError) as reason:
            error = str(reason)
        yield {
            "name": name,
            "path": str(shipped_path(name)),
            "card": str(card_path(name)) if card_path(name).is_file() else None,
            "preset": run.get("config", {}).get("model", {}).get("preset"),
            "data": run.get("data", {}).get("data_set"),
            "error": error,
        }


def _tell_component(entry: Registered, *, as_json: bool) -> None:
    described = _described(entry)
    if as_json:
        print_json(described)
        return
    print_rows((name, str(described[name])) for name in ("kind", "name", "plugin", "version", "summary"))
    options = described["options"]
    if described["error"]:
        print_rows([("cannot be loaded", described["error"])])
    elif options:
        print_table(("option", "default"), ((name, _default_text(option)) for name, option in options.items()))


def _described(entry: Registered) -> dict[str, Any]:
    """Return a component as JSON holds it; one whose module cannot be imported is told of, not an end of the list."""
    component, options, error = entry.component, {}, None
    try:
        options = _options(component)
    except Exception as reason:  # a stranger's module may raise anything
        error = f"{type(reason).__name__}: {reason}"
    return {
        "kind": entry.kind,
        "name": component.name,
        "plugin": entry.plugin,
        "version": component.version,
        "summary": component.summary,
        "options": options,
        "error": error,
    }


def _options(component: Component) -> dict[str, dict[str, Any]]:
    """Return {option: {"required": bool, "default": value}}; a default that JSON cannot hold becomes its text."""
    options: dict[str, dict[str, Any]] = {}
    for name, default in component.options().items():
        required = default is inspect.Parameter.empty
        options[name] = {"required": required, "default": None if required else _plain(default)}
    return options


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)


def _options_text(options: dict[str, dict[str, Any]], error: str | None) -> str:
    if error:
        return f"cannot be loaded: {error}"
    return ", ".join(name if o["required"] else f"{name}={_default_text(o)}" for name, o in options.items())


def _default_text(option: dict[str, Any]) -> str:
    return "(required)" if option["required"] else repr(option["default"])


def _elsewhere(name: str, registry: Registry) -> str:
    """Return where else than among the presets a name stands; empty if nowhere."""
    from snn_perception.registry import KINDS

    found = [f"{kind}:{name}" for kind in KINDS if kind != "preset" and name in registry.names(kind)]
    return f"'{name}' is not a preset; did you mean {' or '.join(repr(hit) for hit in found)}?" if found else ""


def _tell_model(name: str, registry: Registry, arguments: argparse.Namespace) -> None:
    from snn_perception.checkpoint import load_checkpoint
    from snn_perception.cost import cost_of, fused_cost_of
    from snn_perception.detector import build_preset
    from snn_perception.errors import PluginError
    from snn_perception.zoo import shipped, shipped_path

    try:
        if name in shipped():
            detector = load_checkpoint(shipped_path(name), registry=registry)
        else:
            detector = build_preset(name, registry=registry)
    except PluginError as error:
        if name in (*registry.names("preset"), *shipped()):
            raise
        known = f"; shipped weights: {', '.join(shipped())}" if shipped() else ""
        raise PluginError(_elsewhere(name, registry) or f"{error}{known}") from None
    cost, fused = cost_of(detector), fused_cost_of(detector)
    if arguments.json:
        values = {
            "spec": json.loads(detector.spec.to_json()),
            "parameters": cost.parameters,
            "state_elements": cost.state_elements,
            "dense_operations": cost.dense_operations,
        }
        if fused is not None:
            values["dense_operations_fused"] = fused.dense_operations
        print_json(values)
        return
    print_rows(_model_rows(name, "weights" if name in shipped() else "preset", detector.spec, cost))
    if fused is not None:
        print_rows([("fused", f"{_operations_text(fused)}, with each re-parameterised layer as one convolution")])
    if arguments.verbose:
        rows = ((layer.name, f"{layer.operations:,}", "neuron" if layer.is_neuron else "") for layer in cost.layers)
        print_table(("layer", "operations", ""), rows)


def _model_rows(name: str, kind: str, spec: ModelSpec, cost: ModelCost) -> Iterator[tuple[str, str]]:
    yield kind, name
    for role in ("representation", "neuron", "backbone", "head"):
        ref = getattr(spec, role)
        yield role, f"{ref.name}({', '.join(f'{option}={value!r}' for option, value in ref.options.items())})"
    yield "classes", ", ".join(spec.classes)
    yield "window", f"{spec.window_us / 1000:g} ms of {spec.sensor_size} px, state: {spec.state_policy}"
    yield "parameters", f"{cost.parameters:,}"
    yield "state elements", f"{cost.state_elements:,} per stream"
    yield "dense operations", _operations_text(cost)


def _operations_text(cost: ModelCost) -> str:
    return (
        f"{cost.dense_operations:,} per window "
        f"({cost.macs:,} multiply-accumulates, {cost.neuron_outputs:,} neuron outputs)"
    )


if __name__ == "__main__":
    sys.exit(main())

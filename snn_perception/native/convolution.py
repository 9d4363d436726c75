"""Convolutions that add weights where a neuron fired, instead of multiplying by all the zeros; alone or with a neuron.

For inference on a CPU without matrix units. The kernels list the spikes of each input row and add their rows of
weights, or one precomputed sum for every four channels of which some fired. Sums are float32 and exact up to their
order. What fires little costs little: docs/benchmarks/native.md shows up to where this beats a dense convolution.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection

import torch
from torch import Tensor, nn

from snn_perception.kernel_threads import in_threads
from snn_perception.native.calls import KINDS, Caller, best_isa, channels_last, require
from snn_perception.native.library import Call, Charge, Geometry, InputKind, Method, Neuron, Output
from snn_perception.native.neuron import FLOATS, Fired, Form, NeuronStep, prepare
from snn_perception.native.packing import PackedSpikes, pack
from snn_perception.neuron_steps import StepRule

# Tables up to so many bytes, and the share of spikes from which they are faster: the more they fall out of the caches,
# the more additions they must save.
TABLES_FROM = ((1_000_000, 0.12), (4_000_000, 0.4))
LEAST_ROWS = 4  # output rows that are worth a thread
MOST_COLUMNS = 60_000  # of an input
MOST_SHAPES = 16  # of inputs whose sizes are kept

_NO_NEURON = Neuron(int(Charge.NONE), 0, 0.0, 0.0, 0.0)


class SpikeConv2d(nn.Module):
    """A convolution of spikes for inference; make it with `from_conv`.

    It holds its weights in the order of the kernels, not as parameters: moving or casting the module changes nothing,
    and there is nothing to save. Tables of sums, four times the size of the weights, are made when first needed.

    Attributes:
        binary: whether spikes are 0 and 1; else any numbers, best mostly zeros, such as whole numbers of spikes.
    """

    def __init__(self, conv: nn.Conv2d, *, binary: bool = True, isa: str | None = None) -> None:
        super().__init__()
        _require_supported(conv)
        library = require()
        self.isa, self.binary = best_isa(library, isa), binary
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = _pair(conv.kernel_size), _pair(conv.stride)
        self.padding = _padding(conv)
        geometry = Geometry(1, 1, 1, self.in_channels, 1, 1, self.out_channels, *self.kernel_size, 1, 1, 0, 0)
        self._rows = torch.empty(library.rows_size(self.isa, geometry))
        weight = conv.weight.detach().to("cpu", torch.float32).contiguous()
        library.pack_rows(self.isa, geometry, weight.data_ptr(), self._rows.data_ptr())
        self._bias = None if conv.bias is None else conv.bias.detach().to("cpu", torch.float32, copy=True).contiguous()
        self._tables: Tensor | None = None
        table_bytes = 4 * self._rows.numel() * self._rows.element_size()
        self._tables_from = next((share for size, share in TABLES_FROM if table_bytes <= size), None)
        self._known_sizes: dict[torch.Size, tuple[torch.Size, Geometry]] = {}

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, *, binary: bool = True, isa: str | None = None) -> SpikeConv2d:
        """Return the equal of a convolution, which stays as it is.

        Args:
            conv: with zero padding, one group and no dilation.
            binary: whether its input is 0 and 1 alone.
            isa: name of an instruction set; by default the best of this processor.

        Raises:
            ValueError: for a convolution of another kind, or an instruction set that is not there.
            SnnPerceptionError: if the kernels are not there.
        """
        return cls(conv, binary=binary, isa=isa)

    def forward(self, x: Tensor | PackedSpikes, *, method: Method | None = None) -> Tensor:
        """Return float32 [B, C', H', W'] in memory of channels_last; no part of it depends on the number of threads.

        Args:
            x: spikes [B, C, H, W], float32, uint8, bool or packed; a copy is made of memory that is not channels_last.
            method: of the kernels; by default chosen by how much fires.

        Raises:
            ValueError: for tensors of another kind, or values other than 0 and 1 where `binary`.
        """
        call, shape, _spikes = self._call(x, method)
        current = torch.empty(shape, memory_format=torch.channels_last)
        call.neuron, call.output = _NO_NEURON, Output(current.data_ptr())
        self._run(call)
        return current

    def fire(
        self,
        x: Tensor | PackedSpikes,
        v: Tensor | None,
        step: NeuronStep,
        *,
        forms: Collection[Form] = FLOATS,
        v_after: Tensor | None = None,
        method: Method | None = None,
    ) -> Fired:
        """Return what a neuron does with the result; the currents themselves are never written to memory.

        Args:
            x, method: as in `forward`.
            v, step, forms, v_after: as in `neuron.fire`.

        Raises:
            ValueError: for tensors of another kind.
        """
        call, shape, _spikes = self._call(x, method)
        fired, call.output = prepare(shape, v, v_after, forms)
        call.neuron = step.as_structure()
        self._run(call)
        return fired

    def output_shape(self, shape: torch.Size) -> torch.Size:
        """Return [B, C', H', W'] for an input [B, C, H, W].

        Raises:
            ValueError: if the input is smaller than the kernel, or too wide.
        """
        batch, _, *size = shape
        sides = zip(size, self.kernel_size, self.stride, self.padding, strict=True)
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding in sides)
        if min(height, width) < 1 or size[1] > MOST_COLUMNS:
            raise ValueError(
                f"input: expected at least the kernel {self.kernel_size} with padding {self.padding} and at most "
                f"{MOST_COLUMNS} columns, got {size[0]}x{size[1]}"
            )
        return torch.Size((batch, self.out_channels, height, width))

    def density(self, x: Tensor | PackedSpikes) -> float:
        """Return the share of an input that is not 0, for a caller who may choose the dense convolution instead."""
        return x.density if isinstance(x, PackedSpikes) else x.count_nonzero().item() / max(x.numel(), 1)

    def choose(self, spikes: PackedSpikes) -> Method:
        """Return the method that is expected to be faster, by how much fires and the size of the tables."""
        least = self._tables_from
        return Method.TABLES if least is not None and spikes.density >= least else Method.ROWS

    def _call(self, x: Tensor | PackedSpikes, method: Method | None) -> tuple[Call, torch.Size, object]:
        """Return a call without results, the shape of these, and what to keep until it is done."""
        spikes, kind = self._as_input(x)
        out_shape, geometry = self._sizes(spikes.shape)
        if isinstance(spikes, PackedSpikes):
            method = self.choose(spikes) if method is None else method
            address = spikes.words.data_ptr()
        elif method == Method.TABLES:
            raise ValueError("tables of sums are for binary spikes alone; leave the method to the module")
        else:
            address = spikes.data_ptr()
        call = Call()
        call.geometry, call.input, call.input_kind = geometry, address, kind
        call.rows, call.bias = self._rows.data_ptr(), None if self._bias is None else self._bias.data_ptr()
        if method == Method.TABLES:
            call.method, call.tables = method, self._made_tables(geometry).data_ptr()
        return call, out_shape, spikes

    def _sizes(self, shape: torch.Size) -> tuple[torch.Size, Geometry]:
        """Return the shape of the output, and all sizes for the library; kept for the shapes of late."""
        known = self._known_sizes.get(shape)
        if known is None:
            batch, channels, *size = shape
            if channels != self.in_channels:
                raise ValueError(f"input: expected {self.in_channels} channels, got {list(shape)}")
            out_shape = self.output_shape(shape)
            sizes = *out_shape[2:], self.out_channels, *self.kernel_size, *self.stride, *self.padding
            known = out_shape, Geometry(batch, *size, self.in_channels, *sizes)
            if len(self._known_sizes) >= MOST_SHAPES:
                self._known_sizes = {}
            self._known_sizes[shape] = known
        return known

    def _as_input(self, x: Tensor | PackedSpikes) -> tuple[Tensor | PackedSpikes, InputKind]:
        if isinstance(x, PackedSpikes):
            return x, InputKind.WORDS
        if self.binary:
            return pack(x), InputKind.WORDS
        x = channels_last(x, "input")
        return x, KINDS[x.dtype]

    def _made_tables(self, geometry: Geometry) -> Tensor:
        if self._tables is None:
            library = require()
            tables = torch.empty(library.tables_size(self.isa, geometry))
            library.pack_tables(self.isa, geometry, self._rows.data_ptr(), tables.data_ptr())
            self._tables = tables  # set when complete: another thread may be looking
        return self._tables

    def _run(self, call: Call) -> None:
        geometry = call.geometry
        caller = Caller(require().convolve, self.isa, ctypes.byref(call))
        in_threads(caller.piece, geometry.batch * geometry.out_height, LEAST_ROWS)
        caller.check()

    def extra_repr(self) -> str:
        """Return the sizes, for the module's printed form."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, binary={self.binary}"
        )


class SpikingConv(nn.Module):
    """A convolution and the neuron behind it as one pass: ``(x, v) -> (spikes, v)``; one time step, for inference.

    Args:
        conv: the convolution.
        step: the neuron's step.
        form: of the spikes; `packed` is what the next `SpikingConv` reads fastest.
    """

    def __init__(self, conv: SpikeConv2d, step: NeuronStep, *, form: Form = "floats") -> None:
        super().__init__()
        self.conv, self.step, self.form = conv, step, form

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        rule: StepRule,
        factor: Tensor | float = 0.0,
        *,
        binary: bool = True,
        form: Form = "floats",
    ) -> SpikingConv:
        """Return a convolution with an integrate-and-fire neuron.

        Raises:
            ValueError: for a convolution that `SpikeConv2d.from_conv` refuses.
            SnnPerceptionError: if the kernels are not there.
        """
        return cls(SpikeConv2d.from_conv(conv, binary=binary), NeuronStep.of_rule(rule, factor), form=form)

    def forward(
        self, x: Tensor | PackedSpikes, v: Tensor | None = None, *, v_after: Tensor | None = None
    ) -> tuple[Tensor | PackedSpikes, Tensor]:
        """Return spikes [B, C', H', W'] and the membrane, float32 of that shape in memory of channels_last.

        Args:
            x: spikes [B, C, H, W]. v: membrane before; None for rest.
            v_after: where the membrane goes, `v` itself to update it in place; new memory by default.

        Raises:
            ValueError: for tensors of another kind.
        """
        fired = self.conv.fire(x, v, self.step, forms=(self.form,), v_after=v_after)
        return fired.spikes(self.form), fired.v


def _require_supported(conv: nn.Conv2d) -> None:
    if type(conv) is not nn.Conv2d:
        raise ValueError(f"expected an nn.Conv2d, got {type(conv).__name__}")
    wrong = []
    if conv.groups != 1:
        wrong.append(f"groups={conv.groups} (expected 1)")
    if _pair(conv.dilation) != (1, 1):
        wrong.append(f"dilation={conv.dilation} (expected 1)")
    if conv.padding_mode != "zeros":
        wrong.append(f"padding_mode={conv.padding_mode!r} (expected 'zeros')")
    if isinstance(conv.padding, str) and conv.padding == "same" and not all(k % 2 for k in _pair(conv.kernel_size)):
        wrong.append(f"padding='same' with kernel_size={conv.kernel_size} (expected odd sides)")
    if not conv.weight.dtype.is_floating_point or conv.weight.device.type == "meta":
        wrong.append(f"weights {conv.weight.dtype} on {conv.weight.device} (expected numbers)")
    if wrong:
        raise ValueError(f"convolution: {', '.join(wrong)}; keep the dense one for it")


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        height, width = _pair(conv.kernel_size)
        return (height // 2, width // 2) if conv.padding == "same" else (0, 0)
    return _pair(conv.padding)


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width

"""The functions on state: what goes in comes out, for any tree of tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.state import (
    clone,
    count_elements,
    detach,
    named_leaves,
    reset_rows,
    split_rows,
    stack_rows,
    to,
    tree_map,
)

SHAPES = [(), (3,), (2, 2), (1, 3, 2)]


@st.composite
def trees(draw, *, with_rest=True):
    """A state of some batch rows, and the number of rows."""
    batch = draw(st.integers(1, 4))
    numbers = iter(range(1, 10_000))

    def tensor(shape):
        values = [float(next(numbers)) for _ in range(batch * max(1, torch.Size(shape).numel()))]
        return torch.tensor(values).view(batch, *shape)

    leaf = st.sampled_from(SHAPES).map(tensor)
    if with_rest:
        leaf = st.none() | leaf
    names = st.text("abc_", min_size=1, max_size=3)
    tree = st.recursive(
        leaf,
        lambda part: st.lists(part, max_size=3).map(tuple) | st.dictionaries(names, part, max_size=3),
        max_leaves=6,
    )
    return draw(tree), batch


def same(a, b) -> bool:
    """Equal in structure and in every bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    return a is None and b is None


@given(trees())
def test_split_then_stack_gives_the_state_back(drawn):
    state, batch = drawn
    rows = split_rows(state, batch)
    assert len(rows) == batch
    assert all(leaf.shape[0] == 1 for row in rows for _, leaf in named_leaves(row))
    assert same(stack_rows(rows), state)


@given(trees())
def test_clone_and_detach_keep_the_values(drawn):
    state, _ = drawn
    copied = clone(state)
    assert same(copied, state)
    for (_, new), (_, old) in zip(named_leaves(copied), named_leaves(state), strict=True):
        assert new.data_ptr() != old.data_ptr() or not old.numel()
    tracked = tree_map(lambda leaf: leaf.clone().requires_grad_() * 2, state)
    assert all(leaf.requires_grad for _, leaf in named_leaves(tracked))
    assert not any(leaf.requires_grad for _, leaf in named_leaves(detach(tracked)))
    assert same(detach(tracked), tree_map(lambda leaf: leaf * 2, state))


@given(trees(), st.data())
def test_reset_rows_zeroes_the_chosen_rows_only(drawn, data):
    state, batch = drawn
    is_start = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch, max_size=batch)))
    before = clone(state)
    after = reset_rows(state, is_start)
    assert same(state, before), "the state that was given stays as it was"
    for (name, new), (old_name, old) in zip(named_leaves(after), named_leaves(state), strict=True):
        assert name == old_name and new.dtype == old.dtype
        for row, starts in enumerate(is_start.tolist()):
            assert torch.equal(new[row], torch.zeros_like(old[row]) if starts else old[row])


@given(trees(with_rest=False))
def test_names_of_leaves_are_distinct_and_in_a_fixed_order(drawn):
    state, _ = drawn
    names = [name for name, _ in named_leaves({"backbone": state})]
    assert len(set(names)) == len(names) and all(name.startswith("backbone") for name in names)
    assert names == [name for name, _ in named_leaves({"backbone": clone(state)})]
    assert count_elements(state) == sum(leaf.numel() for _, leaf in named_leaves(state))


def test_names_spell_the_path():
    one = torch.ones(1)
    state = {"backbone": (one, None, {"v": one}), "head": ()}
    assert [name for name, _ in named_leaves(state)] == ["backbone.0", "backbone.2.v"]
    assert [name for name, _ in named_leaves(one)] == [""]


def test_a_stream_at_rest_is_stacked_as_zeros():
    state = (torch.ones(1, 2), {"v": torch.full((1, 3), 2.0, dtype=torch.float64)})
    stacked = stack_rows([None, state, (None, {"v": torch.ones(1, 3, dtype=torch.float64)})])
    assert stacked[0].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert stacked[1]["v"].tolist() == [[0, 0, 0], [2, 2, 2], [1, 1, 1]]
    assert stacked[1]["v"].dtype == torch.float64
    assert stack_rows([None, None]) is None and stack_rows([]) is None


@pytest.mark.parametrize(
    "others",
    [
        [torch.ones(1, 2), torch.ones(1, 3)],
        [torch.ones(1, 2), (torch.ones(1, 2),)],
        [(torch.ones(1), torch.ones(1)), (torch.ones(1),)],
        [(torch.ones(1),), torch.ones(1)],
        [{"v": torch.ones(1)}, {"u": torch.ones(1)}],
        [{"v": torch.ones(1)}, (torch.ones(1),)],
    ],
    ids=["shape", "tensor and tuple", "length", "tuple and tensor", "names", "dict and tuple"],
)
def test_states_of_different_models_are_not_stacked(others):
    with pytest.raises(ValueError, match="cannot be stacked"):
        stack_rows(others)


def test_rows_must_fit_the_state():
    state = (torch.ones(3, 2),)
    with pytest.raises(ValueError, match=r"expected 2 rows in every leaf of the state, got a leaf \[3, 2\]"):
        split_rows(state, 2)
    with pytest.raises(ValueError, match="expected 2 rows"):
        reset_rows(state, torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"is_start: expected bool \[B\], got torch.int64 \[3\]"):
        reset_rows(state, torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="expected 1 rows"):
        reset_rows((torch.tensor(1.0),), torch.tensor([True]))


def test_a_list_is_no_state():
    with pytest.raises(TypeError, match="a state is None, a tensor, or a tuple or dict of states, got list"):
        tree_map(torch.zeros_like, [torch.ones(1)])


def test_moving_keeps_dtypes():
    state = (torch.ones(1, dtype=torch.float64), {"v": torch.ones(1)})
    moved = to(state, "meta")
    assert [(leaf.device.type, leaf.dtype) for _, leaf in named_leaves(moved)] == [
        ("meta", torch.float64),
        ("meta", torch.float32),
    ]
    assert same(to(state, "cpu"), state)


def test_reset_passes_gradients_of_the_other_rows():
    v = torch.ones(2, 3, requires_grad=True)
    reset_rows((v,), torch.tensor([True, False]))[0].sum().backward()
    assert v.grad.tolist() == [[0, 0, 0], [1, 1, 1]]

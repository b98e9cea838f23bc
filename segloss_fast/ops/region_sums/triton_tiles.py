"""Sums of a tile of voxels with class indices, of a softmax: see triton_labels.py."""

import triton
import triton.language as tl

from segloss_fast.ops._triton.elementary import exp, log_normal, reciprocal
from segloss_fast.ops._triton.tiles import (
    PLANES,
    class_pointers,
    classify,
    comparable,
    one_hot,
    parts,
    truth_of,
    voxel_pointers,
)
from segloss_fast.ops.region_sums.triton_activations import Maps, softmax_of_label
from segloss_fast.ops.region_sums.triton_terms import (
    COUNT,
    FP,
    NLL,
    PRED,
    TP,
    any_of,
    bits,
    has,
    rank,
    term_value,
)

# The terms: of every class's p, of the voxel's own, and those of one voxel.
OF_ALL = tl.constexpr(bits("pred", "fp"))
COUNTS = tl.constexpr(bits("target", "target_sq"))
OF_VOXEL = tl.constexpr(bits("fn", "nll_pow", "focal"))
SERVED = tl.constexpr(OF_ALL.value | COUNTS.value | OF_VOXEL.value | bits("tp", "nll"))
# A NaN in p is one in these of every class, which is known of pred.
SPREAD = tl.constexpr(bits("tp", "fp", "fn"))
BYTES = tl.constexpr(4)  # classes that one number counts


@triton.jit
def codes(view, tile, ignore, WHOLE: tl.constexpr, kind: tl.constexpr):
    """Return of each voxel ``[V]`` its label, whether it counts, and the label to be judged.

    As a label of several classes it is an int32, which is no class if the label is none, and if the
    voxel does not count. What is judged is a class, too, where the voxel does not count.
    """
    pointers = voxel_pointers(
        view, tile.item, tile.first, tile.lanes, tile.sizes, kind.LAYOUT, kind.UNIT
    )
    label = truth_of(tl.load(pointers, mask=tile.exists, other=0), kind)
    if label.dtype.is_floating():
        code, counts, bad = classify(label, tile.exists, ignore, kind.C, kind.IGNORE)
        return code, counts, tl.where(bad, -1, 0)
    else:
        value = comparable(label)
        code = value.to(tl.int32)
        if value.dtype == tl.int64:
            code = tl.where((value >> 32) == 0, code, -1)
        counts = tile.exists
        if kind.IGNORE:
            counts = counts & (value != ignore.to(value.dtype))
        if WHOLE and not kind.IGNORE:
            return code, counts, code
        else:
            return tl.where(counts, code, -1), counts, tl.where(counts, code, 0)


@triton.jit
def fresh(formula: tl.constexpr, C: tl.constexpr, LANES: tl.constexpr):
    """Return sums of nothing, one per term of the set."""
    sums = ()
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            if has(COUNTS, k) and C <= BYTES:
                sums = sums + (tl.zeros([1, LANES], tl.int32),)  # noqa: RUF005
            else:
                sums = sums + (tl.zeros([C, LANES], tl.float32),)  # noqa: RUF005
    return sums


@triton.jit
def _values_of_voxel(x, own, counts, stats, gamma, formula: tl.constexpr):
    """Return, by term, what voxels add to their own class ``[1, V]``; 0 for all other terms."""
    values = ()
    at = softmax_of_label(x, own, counts, stats)
    true = tl.full(at[0].shape, 1, tl.int1)
    maps = Maps(at[0], at[1], at, at)
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k) and has(OF_VOXEL, k):
            value = term_value(k, maps, true, None, counts, gamma, formula)
            values = values + (value,)  # noqa: RUF005
        else:
            values = values + (0,)  # noqa: RUF005
    return values


@triton.jit
def _of_classes(value, in_c, other: tl.constexpr, kind: tl.constexpr):
    """Set what is padding where a thread has all classes: there the compiler takes it out.

    Elsewhere that would cost an instruction, and nobody reads the sums of padding.
    """
    if kind.BLOCK_C <= 16:
        return tl.where(in_c, value, other)
    else:
        return value


@triton.jit
def _added(K: tl.constexpr, so_far, own, in_c, code, part, value, kind: tl.constexpr):
    """Return the sums of term K with one voxel of each lane."""
    e, inverse, counts = part
    if so_far.dtype == tl.int32:
        # Not a class: it is counted as one where it is invalid, and then all is NaN in the end.
        return so_far + tl.where(counts, 1 << ((code & 3) * 8), 0)
    else:
        if K == PRED:
            found = so_far + e * inverse
        elif K == FP:
            found = tl.where(own, so_far, so_far + e * inverse)
        elif K == TP:
            found = tl.where(own, so_far + e * inverse, so_far)
        elif K == NLL:
            found = so_far  # see _add_shifted()
        elif has(COUNTS, K):
            found = tl.where(own, so_far + 1.0, so_far)
        else:
            found = tl.where(own, so_far + value, so_far)
        return _of_classes(found, in_c, 0.0, kind)


@triton.jit
def add_tile(
    sums, product, worst, x_view, t_view, tile, c, ignore, gamma,
    WHOLE: tl.constexpr, kind: tl.constexpr, formula: tl.constexpr,
):  # fmt: skip
    """Return the sums, the products of sums of exponentials, and the worst label, with a tile's."""
    NEAR: tl.constexpr = kind.LAYOUT == PLANES and kind.UNIT > 1
    in_c = (c < kind.C)[:, None]
    code, counts, judged = codes(t_view, tile, ignore, WHOLE, kind)
    pointers = class_pointers(x_view, tile, c, kind)
    # Padding has the exponential 0, or NaN where its voxel has.
    x = tl.load(pointers, mask=in_c & tile.exists[None, :], other=float("-inf")).to(tl.float32)
    if kind.IGNORE or not WHOLE:
        x = tl.where(counts[None, :], x, 0.0)
    top = tl.max(_of_classes(x, in_c, float("-inf"), kind), 0)  # a NaN shows in the sum
    shifted = x - top[None, :]
    of_code = parts(code[None, :], kind.FOLD, NEAR)
    if has(formula.TERMS, NLL):  # before the sum, which waits: then the exponentials alone are left
        sums = _add_shifted(sums, parts(shifted, kind.FOLD, NEAR), of_code, c, kind, formula)
    e = _of_classes(exp(shifted), in_c, 0.0, kind)
    total = tl.sum(e, 0)
    inverse = tl.where(counts, reciprocal(total), 0.0)
    extra = x  # nobody reads it
    if any_of(formula.TERMS, OF_VOXEL):
        marked = one_hot(code, c, x, True)
        stats = (top, total, total, total, total, total)
        extra = _values_of_voxel(x, marked, counts, stats, gamma, formula)
    of_e, of_counts = parts(e, kind.FOLD, NEAR), parts(counts[None, :], kind.FOLD, NEAR)
    of_total = parts(total[None, :], kind.FOLD, NEAR)
    of_inverse = parts(inverse[None, :], kind.FOLD, NEAR)
    of_judged = parts(judged[None, :], kind.FOLD, NEAR)
    for place in tl.static_range(kind.FOLD):
        own = of_code[place] == c[:, None]
        part = (of_e[place], of_inverse[place], of_counts[place])
        out = ()
        for k in tl.static_range(COUNT):
            if has(formula.TERMS, k):
                value = 0
                if has(OF_VOXEL, k):
                    value = parts(extra[k], kind.FOLD, NEAR)[place]
                found = _added(k, sums[len(out)], own, in_c, of_code[place], part, value, kind)
                out = out + (found,)  # noqa: RUF005
        sums = out
        if has(formula.TERMS, NLL):
            product = tl.where(own, product * of_total[place], product)
            product = _of_classes(product, in_c, 1.0, kind)
        worst = tl.maximum(worst, of_judged[place].to(tl.uint32, bitcast=True))
    return sums, product, worst


@triton.jit
def _add_shifted(sums, of_shifted, of_code, c, kind: tl.constexpr, formula: tl.constexpr):
    """Return the sums with a tile's logits, less the largest of their voxel, taken from nll's."""
    out = ()
    classes = c[:, None]
    if kind.BLOCK_C > 16:
        # Else the compiler keeps what it has compared until after the sum, in more instructions.
        classes = classes.to(tl.float32)
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            found = sums[len(out)]
            if k == NLL:
                for place in tl.static_range(kind.FOLD):
                    own = of_code[place].to(classes.dtype) == classes
                    found = tl.where(own, found - of_shifted[place], found)
                found = _of_classes(found, (c < kind.C)[:, None], 0.0, kind)
            out = out + (found,)  # noqa: RUF005
    return out


@triton.jit
def with_logs(sums, product, formula: tl.constexpr):
    """Return the sums with the logarithms of the products in that of nll."""
    out = ()
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            found = sums[len(out)]
            if k == NLL:
                found += log_normal(product)
            out = out + (found,)  # noqa: RUF005
    return out


@triton.jit
def as_rows(sums, c, formula: tl.constexpr):
    """Return the sums in float32 ``[C, LANES]``."""
    out = ()
    pred = sums[0]
    if has(formula.TERMS, PRED):
        pred = sums[rank(formula.TERMS, PRED)]
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            found = sums[len(out)]
            if found.dtype == tl.int32:
                found = ((found >> (c[:, None] * 8)) & 255).to(tl.float32)
            if has(SPREAD, k):
                found += pred - pred
            out = out + (found,)  # noqa: RUF005
    return out

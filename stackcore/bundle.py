"""Many arrays, handed to kernels by one pointer.

A kernel that takes a named tuple of arrays gets seven words per array, at every call, and carries the layout of every record
in its name: with two dozen arrays both running and compiling drown in it. A :class:`Bundle` is passed as the address of a
table that says where its arrays lie; a kernel loads from it what it uses. In Python, and in kernels that run interpreted, a
bundle is an object with arrays as attributes.

The table is made when the bundle is: an attribute cannot be bound to another array later, and the arrays live as long as the
bundle does. Passing one is safe from any thread; what kernels do to the arrays is theirs to answer for.

This module imports nothing of ours but the switch for compiling. Sources: numba's manual, "Extending Numba".
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stackcore.kernel import JIT

_WORDS = 5
"""int64 words per array in the table: data, two extents, two strides."""


class Bundle:
    """Base class: the annotations of a subclass name its arrays, the constructor takes them by keyword.

    Arrays have one or two dimensions. TypeError when a name is missing, unknown, or not an array.
    """

    def __init__(self, **arrays: np.ndarray[Any, Any]) -> None:
        names = list(type(self).__annotations__)
        if set(names) != set(arrays):
            wrong = ", ".join(sorted(set(names) ^ set(arrays)))
            raise TypeError(f"{type(self).__name__} takes exactly its own arrays; missing or unknown: {wrong}")
        table = np.zeros((len(names), _WORDS), "i8")
        for row, name in zip(table, names, strict=True):
            array = arrays[name]
            if not isinstance(array, np.ndarray) or not 1 <= array.ndim <= 2:
                raise TypeError(f"{name} must be an array of one or two dimensions")
            row[0] = array.ctypes.data
            row[1 : 1 + array.ndim] = array.shape
            row[3 : 3 + array.ndim] = array.strides
        self.__dict__.update(arrays, _table=table, _address=table.ctypes.data)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be bound anew: kernels know where its arrays are")

    def __getstate__(self) -> None:
        raise TypeError(f"a {type(self).__name__} holds addresses of this process and cannot be pickled")


if JIT:
    from numba import types
    from numba.core.datamodel import models, register_default
    from numba.core.typing.templates import AttributeTemplate
    from numba.extending import NativeValue, infer_getattr, lower_getattr_generic, typeof_impl, unbox
    from numba.np.arrayobj import make_array, populate_array

    class BundleType(types.Type):
        """The numba type of one bundle class with arrays of certain types."""

        def __init__(self, name: str, fields: tuple[tuple[str, Any], ...]) -> None:
            self.fields = {field: (row, array) for row, (field, array) in enumerate(fields)}
            digest = hashlib.sha256(repr(fields).encode()).hexdigest()[:8]
            super().__init__(name=f"{name}_{digest}")

    register_default(BundleType)(models.OpaqueModel)

    @typeof_impl.register(Bundle)
    def _typeof(bundle: Bundle, context: Any) -> BundleType:
        known = bundle.__dict__.get("_type")
        if known is None:
            fields = tuple((name, typeof_impl(getattr(bundle, name), context)) for name in type(bundle).__annotations__)
            known = BundleType(type(bundle).__name__, fields)
            bundle.__dict__["_type"] = known
        return known

    @infer_getattr
    class _Attributes(AttributeTemplate):
        key = BundleType

        def generic_resolve(self, bundle: BundleType, name: str) -> Any:
            return bundle.fields[name][1] if name in bundle.fields else None

    @unbox(BundleType)
    def _unbox(bundle: BundleType, obj: Any, c: Any) -> NativeValue:
        address = c.pyapi.object_getattr_string(obj, "_address")
        pointer = c.pyapi.long_as_voidptr(address)
        c.pyapi.decref(address)
        return NativeValue(pointer)

    @lower_getattr_generic(BundleType)
    def _load(context: Any, builder: Any, bundle: BundleType, value: Any, name: str) -> Any:
        row, kind = bundle.fields[name]
        word = context.get_value_type(types.int64)
        table = builder.bitcast(value, word.as_pointer())
        never_changes = builder.module.add_metadata([])

        def entry(i: int) -> Any:
            loaded = builder.load(builder.gep(table, [context.get_constant(types.int64, _WORDS * row + i)]))
            loaded.set_metadata("invariant.load", never_changes)
            return loaded

        array = make_array(kind)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        contiguous = kind.layout == "C" and kind.ndim == 1
        populate_array(
            array,
            data=builder.inttoptr(entry(0), array.data.type),
            shape=[entry(1 + i) for i in range(kind.ndim)],
            strides=[itemsize] if contiguous else [entry(3 + i) for i in range(kind.ndim)],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()

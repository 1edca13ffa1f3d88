/* module.c - the extension module shmq._native: its functions, its constants, its types. */
#include "shmq/native/module.h"

#include "shmq/native/export.h"

#ifndef SHMQ_BUILD_HASH /* the build puts build_hash.h in front of every file */
#define SHMQ_BUILD_HASH "unknown"
#endif

static const struct {
    const char *name;
    void *address;
} functions[] = {
#define ENTRY(name, params) {#name, (void *)name},
    SHMQ_X_FUNCTIONS(ENTRY)
#undef ENTRY
};

/* name -> address of every function in export.h */
static int add_symbols(PyObject *module)
{
    PyObject *symbols = PyDict_New();
    if (!symbols)
        return -1;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        PyObject *address = PyLong_FromVoidPtr(functions[i].address);
        if (!address || PyDict_SetItemString(symbols, functions[i].name, address) < 0) {
            Py_XDECREF(address);
            Py_DECREF(symbols);
            return -1;
        }
        Py_DECREF(address);
    }
    int rc = PyModule_AddObjectRef(module, "symbols", symbols);
    Py_DECREF(symbols);
    return rc;
}

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (!type)
        return -1;
    int rc = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return rc;
}

static int module_exec(PyObject *module)
{
    if (add_symbols(module) < 0 || add_type(module, &shmq_mapping_spec) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "build_hash", SHMQ_BUILD_HASH);
}

static PyMethodDef module_methods[] = {
    {"layout", shmq_layout, METH_NOARGS,
     "layout() -> dict: shared struct name -> (size, {field: (offset, size)}), in bytes."},
    {"segment_init", shmq_py_segment_init, METH_VARARGS,
     "segment_init(memory, kind, abi)\n\nWrite the header; the magic number comes last."},
    {"segment_check", shmq_py_segment_check, METH_VARARGS,
     "segment_check(memory, kind, abi) -> str | None: why this is not the expected segment."},
    {"segment_header", shmq_py_segment_header, METH_O,
     "segment_header(memory) -> dict | None: the fields of the header, None if it is no segment."},
    {"pidns", shmq_py_pidns, METH_NOARGS, "pidns() -> int: inode of this process's pid namespace, 0 if unknown."},
    {"self_token", shmq_py_self_token, METH_NOARGS, "self_token() -> int: pid << 32 | low bits of the start time."},
    {"token_alive", shmq_py_token_alive, METH_O, "token_alive(token) -> bool: False when that process is gone."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmq._native",
    .m_doc = "Shared-memory primitives in C11; use them through the package shmq.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}

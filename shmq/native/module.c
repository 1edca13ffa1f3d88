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

static int module_exec(PyObject *module)
{
    if (add_symbols(module) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "build_hash", SHMQ_BUILD_HASH);
}

static PyMethodDef module_methods[] = {
    {"layout", shmq_layout, METH_NOARGS,
     "layout() -> dict: shared struct name -> (size, {field: (offset, size)}), in bytes."},
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

/* module.c - the extension module shmq._native: its functions, its constants, its types. */
#include "shmq/native/module.h"

#include "shmq/native/export.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#ifndef SHMQ_BUILD_HASH /* the build puts build_hash.h in front of every file */
#define SHMQ_BUILD_HASH "unknown"
#endif

uint32_t shmq_fork_generation = 1;

static void after_fork_in_child(void)
{
    shmq_fork_generation++;
}

/* Once per process, whatever the number of interpreters; handlers cannot be taken back, nor is this
 * library ever unloaded. */
static int watch_forks(void)
{
    static atomic_flag done = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&done))
        return 0;
    errno = pthread_atfork(NULL, NULL, after_fork_in_child);
    if (errno == 0)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

bool shmq_timeout(PyObject *seconds, int64_t *ns)
{
    *ns = INT64_MAX;
    if (seconds == Py_None)
        return true;
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred())
        return false;
    if (isnan(value) || value < 0) {
        PyErr_Format(PyExc_ValueError, "timeout must be None or a number of seconds >= 0, not %R", seconds);
        return false;
    }
    if (value < 9e9) /* 285 years; more is for ever */
        *ns = (int64_t)ceil(value * 1e9);
    return true;
}

bool shmq_timeout_argument(const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                           Py_ssize_t required, int64_t *ns)
{
    Py_ssize_t keywords = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs < required || nargs + keywords > required + 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd argument(s) and an optional timeout", method, required);
        return false;
    }
    if (keywords && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() has no argument %R", method, PyTuple_GET_ITEM(kwnames, 0));
        return false;
    }
    return shmq_timeout(nargs + keywords > required ? args[required] : Py_None, ns);
}

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

static int import_class(PyObject **into, const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (!module)
        return -1;
    *into = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *into ? 0 : -1;
}

static int import_exceptions(shmq_state *state)
{
    if (import_class(&state->full, "queue", "Full") < 0 || import_class(&state->empty, "queue", "Empty") < 0 ||
        import_class(&state->role_taken, "shmq.errors", "RoleTaken") < 0 ||
        import_class(&state->peer_died, "shmq.errors", "PeerDied") < 0 ||
        import_class(&state->corrupt, "shmq.errors", "CorruptSegment") < 0 ||
        import_class(&state->owner_died, "shmq.errors", "OwnerDied") < 0)
        return -1;
    return 0;
}

static int module_exec(PyObject *module)
{
    shmq_state *state = PyModule_GetState(module);
    if (watch_forks() < 0 || import_exceptions(state) < 0 || add_symbols(module) < 0)
        return -1;
    PyType_Spec *specs[] = {
        &shmq_mapping_spec, &shmq_producer_spec, &shmq_consumer_spec, &shmq_channel_producer_spec,
        &shmq_channel_consumer_spec, &shmq_fifo_writer_spec, &shmq_fifo_reader_spec, &shmq_event_spec, &shmq_spinlock_spec,
        &shmq_mutex_spec, &shmq_rwlock_spec, &shmq_prwlock_spec, &shmq_queue_spec,
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        if (add_type(module, specs[i]) < 0)
            return -1;
    state->release = PyUnicode_InternFromString("release");
    if (!state->release)
        return -1;
    state->lease = (PyTypeObject *)PyType_FromModuleAndSpec(module, &shmq_lease_spec, NULL);
    if (!state->lease)
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
    {"ring_bytes", shmq_py_ring_bytes, METH_VARARGS,
     "ring_bytes(capacity, slot_size) -> int: bytes a ring needs, 0 for an impossible geometry."},
    {"ring_init", shmq_py_ring_init, METH_VARARGS,
     "ring_init(memory, at, capacity, slot_size, flags)\n\nLay out an empty ring in zeroed memory."},
    {"ring_info", shmq_py_ring_info, METH_VARARGS,
     "ring_info(memory, at) -> dict | None: geometry, counters and roles; None if there is no valid ring."},
    {"channel_bytes", shmq_py_channel_bytes, METH_O,
     "channel_bytes(capacity) -> int: bytes a channel needs, 0 for an impossible capacity."},
    {"channel_init", shmq_py_channel_init, METH_VARARGS,
     "channel_init(memory, at, capacity, flags)\n\nLay out an empty channel in zeroed memory."},
    {"channel_info", shmq_py_channel_info, METH_VARARGS,
     "channel_info(memory, at) -> dict | None: counters and roles; None if there is no valid channel."},
    {"stream_bytes", shmq_py_stream_bytes, METH_O,
     "stream_bytes(capacity) -> int: bytes a byte fifo needs, 0 for an impossible capacity."},
    {"stream_init", shmq_py_stream_init, METH_VARARGS,
     "stream_init(memory, at, capacity, flags)\n\nLay out an empty byte fifo in zeroed memory."},
    {"stream_info", shmq_py_stream_info, METH_VARARGS,
     "stream_info(memory, at) -> dict | None: counters and roles; None if there is no valid byte fifo."},
    {"queue_bytes", shmq_py_queue_bytes, METH_O,
     "queue_bytes(lines) -> int: bytes a queue needs, 0 for an impossible geometry."},
    {"queue_init", shmq_py_queue_init, METH_VARARGS,
     "queue_init(memory, at, lines, maxsize)\n\nLay out an empty queue in zeroed memory."},
    {NULL, NULL, 0, NULL},
};

static int state_traverse(PyObject *module, visitproc visit, void *arg)
{
    shmq_state *state = PyModule_GetState(module);
    Py_VISIT(state->full);
    Py_VISIT(state->empty);
    Py_VISIT(state->role_taken);
    Py_VISIT(state->peer_died);
    Py_VISIT(state->corrupt);
    Py_VISIT(state->owner_died);
    Py_VISIT(state->lease);
    Py_VISIT(state->release);
    return 0;
}

static int state_clear(PyObject *module)
{
    shmq_state *state = PyModule_GetState(module);
    Py_CLEAR(state->full);
    Py_CLEAR(state->empty);
    Py_CLEAR(state->role_taken);
    Py_CLEAR(state->peer_died);
    Py_CLEAR(state->corrupt);
    Py_CLEAR(state->owner_died);
    Py_CLEAR(state->lease);
    Py_CLEAR(state->release);
    return 0;
}

static void state_free(void *module)
{
    state_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000 /* no state is shared between interpreters but the fork generation, which only a fork writes */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

static PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmq._native",
    .m_doc = "Shared-memory primitives in C11; use them through the package shmq.",
    .m_size = sizeof(shmq_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = state_traverse,
    .m_clear = state_clear,
    .m_free = state_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}

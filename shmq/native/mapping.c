/* mapping.c - the type Mapping (a mapped file that cannot vanish under its views) and the segment
 * header's functions.
 *
 * Promise: the memory is unmapped and the file descriptor closed when close() is called or the last
 * reference goes, and never while a buffer of it is exported: close() raises BufferError then, and
 * every exported buffer holds a reference. Works across fork: parent and child each own their mapping.
 *
 * Doubt: a process of the same user that truncates the file makes the next access a SIGBUS; only
 * sealed memfds could forbid that, and those have no name.
 */
#include "shmq/native/module.h"

#include "shmq/native/segment.h"

#include <structmember.h>
#include <sys/mman.h>

typedef struct {
    PyObject_HEAD
    void *at; /* NULL once closed */
    Py_ssize_t size;
    Py_ssize_t exports;
    int fd;
} Mapping;

static PyObject *mapping_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "size", NULL};
    int fd;
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "in:Mapping", names, &fd, &size))
        return NULL;
    if (size <= 0)
        return PyErr_Format(PyExc_ValueError, "a mapping needs at least one byte, not %zd", size);
    Mapping *self = (Mapping *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->fd = -1;
    void *at = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->at = at;
    self->size = size;
    self->fd = fd; /* owned from here on, not when this call fails */
    return (PyObject *)self;
}

static void mapping_drop(Mapping *self)
{
    if (self->at)
        munmap(self->at, (size_t)self->size);
    if (self->fd >= 0)
        close(self->fd);
    self->at = NULL;
    self->fd = -1;
}

static void mapping_dealloc(Mapping *self)
{
    PyTypeObject *type = Py_TYPE(self);
    mapping_drop(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *mapping_close(Mapping *self, PyObject *Py_UNUSED(unused))
{
    if (self->exports)
        return PyErr_Format(PyExc_BufferError,
                            "%zd view(s) of the shared memory are alive (memoryviews, arrays, ring or lock "
                            "handles): drop or close them first", self->exports);
    mapping_drop(self);
    Py_RETURN_NONE;
}

static int mapping_getbuffer(Mapping *self, Py_buffer *view, int flags)
{
    if (!self->at) {
        view->obj = NULL;
        PyErr_SetString(PyExc_ValueError, "the segment is closed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)self, self->at, self->size, 0, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void mapping_releasebuffer(Mapping *self, Py_buffer *Py_UNUSED(view))
{
    self->exports--;
}

static PyObject *mapping_address(Mapping *self, void *Py_UNUSED(unused))
{
    if (!self->at) {
        PyErr_SetString(PyExc_ValueError, "the segment is closed");
        return NULL;
    }
    return PyLong_FromVoidPtr(self->at);
}

static PyObject *mapping_closed(Mapping *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->at == NULL);
}

static PyMethodDef mapping_methods[] = {
    {"close", (PyCFunction)mapping_close, METH_NOARGS,
     "close()\n\nUnmap and close the file. BufferError while a view is alive; a second call does nothing."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef mapping_getset[] = {
    {"address", (getter)mapping_address, NULL, "Address of the first byte in this process.", NULL},
    {"closed", (getter)mapping_closed, NULL, "True once close() succeeded.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef mapping_members[] = {
    {"fd", T_INT, offsetof(Mapping, fd), READONLY, "File descriptor, -1 once closed."},
    {"size", T_PYSSIZET, offsetof(Mapping, size), READONLY, "Mapped bytes."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot mapping_slots[] = {
    {Py_tp_doc, "Mapping(fd, size)\n\nMap the first `size` bytes of a file, shared and writable; owns `fd`."},
    {Py_tp_new, mapping_new},
    {Py_tp_dealloc, mapping_dealloc},
    {Py_tp_methods, mapping_methods},
    {Py_tp_getset, mapping_getset},
    {Py_tp_members, mapping_members},
    {Py_bf_getbuffer, mapping_getbuffer},
    {Py_bf_releasebuffer, mapping_releasebuffer},
    {0, NULL},
};

PyType_Spec shmq_mapping_spec = {
    .name = "shmq._native.Mapping",
    .basicsize = sizeof(Mapping),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mapping_slots,
};

/* ---- the segment header ---- */

PyObject *shmq_py_segment_init(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    const char *kind, *abi;
    if (!PyArg_ParseTuple(args, "w*ss:segment_init", &memory, &kind, &abi))
        return NULL;
    int rc = (uintptr_t)memory.buf % SHMQ_LINE ? SHMQ_INVALID
                                               : shmq_segment_init(memory.buf, (uint64_t)memory.len, kind, abi);
    PyBuffer_Release(&memory);
    if (rc != SHMQ_OK)
        return PyErr_Format(PyExc_ValueError, "kind must be shorter than %zu bytes and abi than %zu",
                            sizeof((shmq_segment *)0)->kind, sizeof((shmq_segment *)0)->abi);
    Py_RETURN_NONE;
}

PyObject *shmq_py_segment_check(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    const char *kind, *abi;
    if (!PyArg_ParseTuple(args, "w*ss:segment_check", &memory, &kind, &abi))
        return NULL;
    const char *why = (uintptr_t)memory.buf % SHMQ_LINE
                          ? "not aligned"
                          : shmq_segment_check(memory.buf, (uint64_t)memory.len, kind, abi);
    PyBuffer_Release(&memory);
    return Py_BuildValue("z", why);
}

static PyObject *text_field(const char *field, size_t size)
{
    return PyUnicode_DecodeASCII(field, (Py_ssize_t)strnlen(field, size), "replace");
}

PyObject *shmq_py_segment_header(PyObject *Py_UNUSED(module), PyObject *arg)
{
    Py_buffer memory;
    shmq_segment s;
    if (PyObject_GetBuffer(arg, &memory, PyBUF_SIMPLE) < 0)
        return NULL;
    bool whole = memory.len >= (Py_ssize_t)sizeof s;
    if (whole)
        memcpy((void *)&s, memory.buf, sizeof s);
    PyBuffer_Release(&memory);
    if (!whole || atomic_load_explicit(&s.magic, memory_order_relaxed) != SHMQ_SEGMENT_MAGIC)
        Py_RETURN_NONE;
    return Py_BuildValue("{sIsIsKsKsKsNsN}", "version", s.version, "uid", s.owner_uid, "size",
                         (unsigned long long)s.size, "token", (unsigned long long)s.owner_token, "pidns",
                         (unsigned long long)s.pidns, "kind", text_field(s.kind, sizeof s.kind), "abi",
                         text_field(s.abi, sizeof s.abi));
}

PyObject *shmq_py_pidns(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(shmq_pidns());
}

PyObject *shmq_py_self_token(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(shmq_self_token());
}

PyObject *shmq_py_token_alive(PyObject *Py_UNUSED(module), PyObject *arg)
{
    unsigned long long token = PyLong_AsUnsignedLongLong(arg);
    if (token == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(shmq_token_alive(token));
}

/* fifo_reader.c - the type FifoReader. */
#include "shmq/native/end.h"

/* Readable bytes, at least `want` if there are; with strategy eventfd an empty fifo arms the descriptor. < 0: error
 * set. */
static int64_t ready_for(shmq_end *self, uint64_t want)
{
    shmq_fifo_end *r = &self->fifo;
    shmq_stream *stream = self->stream;
    uint64_t avail = shmq_fifo_avail(r, want);
    if (__builtin_expect(avail == 0, 0)) {
        shmq_stream_count(&stream->empty_hits);
        if (shmq_end_arm(self))
            avail = shmq_fifo_avail(r, want);
        if (avail == 0 && r->peer != r->pos) {
            shmq_end_corrupt(self);
            return -1;
        }
    }
    if (avail > atomic_load_explicit(&stream->high_water, memory_order_relaxed))
        atomic_store_explicit(&stream->high_water, avail, memory_order_relaxed);
    return (int64_t)avail;
}

static void consume(shmq_end *self, uint64_t n)
{
    shmq_fifo_skip(&self->fifo, n);
    shmq_cell_wake(&self->stream->writer_cell, self->peer_efd);
}

/* n of the `avail` readable bytes from offset on, fewer when there are fewer; they stay. */
static PyObject *copy_out(shmq_end *self, uint64_t offset, uint64_t n, uint64_t avail)
{
    uint64_t there = offset < avail ? avail - offset : 0;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(n < there ? n : there));
    if (bytes)
        shmq_fifo_peek(&self->fifo, offset, PyBytes_AS_STRING(bytes), (uint64_t)PyBytes_GET_SIZE(bytes));
    return bytes;
}

static bool count_argument(PyObject *arg, const char *what, Py_ssize_t *n)
{
    *n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (*n == -1 && PyErr_Occurred())
        return false;
    if (*n >= 0)
        return true;
    PyErr_Format(PyExc_ValueError, "%s must not be negative, it is %zd", what, *n);
    return false;
}

/* Up to *arg bytes, or NULL: with an exception set, or without because the fifo is empty. */
static PyObject *read_once(shmq_end *self, void *arg)
{
    uint64_t n = (uint64_t)*(Py_ssize_t *)arg;
    int64_t avail = n ? ready_for(self, n) : 0;
    if (avail < 0 || (avail == 0 && n))
        return NULL;
    PyObject *bytes = copy_out(self, 0, n, (uint64_t)avail);
    if (bytes && PyBytes_GET_SIZE(bytes))
        consume(self, (uint64_t)PyBytes_GET_SIZE(bytes));
    return bytes;
}

static PyObject *reader_try_read(shmq_end *self, PyObject *arg)
{
    Py_ssize_t n;
    if (!count_argument(arg, "n", &n))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    PyObject *bytes = read_once(self, &n);
    return bytes || PyErr_Occurred() ? bytes : PyBytes_FromStringAndSize(NULL, 0);
}

static PyObject *reader_read(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    Py_ssize_t n;
    if (!shmq_timeout_argument("read", args, nargs, kwnames, 1, &timeout_ns) || !count_argument(args[0], "n", &n))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    return shmq_end_pop(self, timeout_ns, read_once, &n);
}

static PyObject *read_into_once(shmq_end *self, void *arg)
{
    Py_buffer *into = arg;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    int64_t avail = into->len ? ready_for(self, (uint64_t)into->len) : 0;
    if (avail < 0 || (avail == 0 && into->len))
        return NULL;
    uint64_t n = shmq_fifo_peek(&self->fifo, 0, into->buf, (uint64_t)into->len);
    if (n)
        consume(self, n);
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *reader_read_into(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    Py_buffer into;
    if (!shmq_timeout_argument("read_into", args, nargs, kwnames, 1, &timeout_ns))
        return NULL;
    if (PyObject_GetBuffer(args[0], &into, PyBUF_WRITABLE) < 0)
        return NULL;
    PyObject *n = shmq_end_pop(self, timeout_ns, read_into_once, &into);
    PyBuffer_Release(&into);
    return n;
}

static PyObject *reader_peek(shmq_end *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t offset, n;
    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "peek() takes an offset and a number of bytes");
    if (!count_argument(args[0], "offset", &offset) || !count_argument(args[1], "n", &n))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    int64_t avail = ready_for(self, (uint64_t)offset + (uint64_t)n);
    return avail < 0 ? NULL : copy_out(self, (uint64_t)offset, (uint64_t)n, (uint64_t)avail);
}

static PyObject *reader_skip(shmq_end *self, PyObject *arg)
{
    Py_ssize_t n;
    if (!count_argument(arg, "n", &n))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    int64_t avail = n ? ready_for(self, (uint64_t)n) : 0;
    if (avail < 0)
        return NULL;
    uint64_t skipped = (uint64_t)(avail < n ? avail : n);
    if (skipped)
        consume(self, skipped);
    return PyLong_FromUnsignedLongLong(skipped);
}

static PyObject *reader_view(shmq_end *self, PyObject *arg)
{
    Py_ssize_t want;
    const uint8_t *at;
    if (!count_argument(arg, "n", &want))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (want < 1)
        return PyErr_Format(PyExc_ValueError, "view at least one byte, not %zd", want);
    int64_t avail = ready_for(self, (uint64_t)want);
    if (avail < 0)
        return NULL;
    uint64_t n = avail ? shmq_fifo_span(&self->fifo, 0, (uint64_t)avail, &at) : 0;
    if (!n)
        at = self->fifo.data;
    if (n > (uint64_t)want)
        n = (uint64_t)want;
    return shmq_end_lend(self, (void *)at, n, n);
}

static PyObject *reader_release(shmq_end *self, PyObject *arg)
{
    int64_t n = shmq_end_count(self, arg, "release");
    if (n < 0 || (self->view && !shmq_end_take_back(self)))
        return NULL;
    if (n)
        consume(self, (uint64_t)n);
    Py_RETURN_NONE;
}

static PyObject *reader_clear_event(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    shmq_fifo_clear_event(&self->fifo);
    shmq_fifo_avail(&self->fifo, UINT64_MAX); /* F3 */
    Py_RETURN_NONE;
}

static const shmq_end_kind reader_kind = {
    .noun = "byte fifo", .unit = "bytes", .damage = "cursor", .role = "reader", .peer = "writer", .lent = "viewed",
    .give_back = "release", .find = shmq_stream_end_find, .bind = shmq_stream_end_bind,
    .ready = shmq_stream_end_ready, .stats = shmq_stream_end_stats,
};

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &reader_kind);
}

static PyMethodDef methods[] = {
    {"try_read", (PyCFunction)reader_try_read, METH_O,
     "try_read(n) -> bytes\n\nTake up to n bytes out, those that are there; b\"\" when the fifo is empty."},
    {"read", (PyCFunction)(void (*)(void))reader_read, METH_FASTCALL | METH_KEYWORDS,
     "read(n, timeout=None) -> bytes\n\nAs try_read, but wait up to timeout seconds (None: for ever) for at least one "
     "byte. Raises queue.Empty on timeout, PeerDied when the fifo is empty and the writer is dead."},
    {"read_into", (PyCFunction)(void (*)(void))reader_read_into, METH_FASTCALL | METH_KEYWORDS,
     "read_into(buffer, timeout=None) -> int\n\nAs read, into a writable C-contiguous buffer or array; how many bytes."},
    {"aread", shmq_end_aread, METH_O,
     "await aread(n) -> bytes\n\nTake up to n bytes out when there is at least one; for asyncio, with wait=\"eventfd\". A "
     "cancelled call has taken nothing. PeerDied when the fifo is empty and the writer is dead, RuntimeError when another "
     "task waits."},
    {"peek", (PyCFunction)(void (*)(void))reader_peek, METH_FASTCALL,
     "peek(offset, n) -> bytes\n\nUp to n bytes from `offset` bytes behind the oldest one on; they stay in the fifo."},
    {"skip", (PyCFunction)reader_skip, METH_O,
     "skip(n) -> int\n\nDrop up to n bytes, those that are there; how many."},
    {"view", (PyCFunction)reader_view, METH_O,
     "view(n) -> memoryview\n\nA read-only view of up to n of the oldest bytes, without copying; shorter at the end of "
     "the buffer or when there are fewer, empty when the fifo is. Until release no other call is allowed."},
    {"release", (PyCFunction)reader_release, METH_O,
     "release(n)\n\nTake the view back and drop the first n viewed bytes; 0 leaves them all. BufferError while a slice "
     "or an array over the view lives."},
    {"clear_event", (PyCFunction)reader_clear_event, METH_NOARGS,
     "clear_event()\n\nClear the event flag, before reading: bytes that come later set it again."},
    SHMQ_END_METHODS,
};

static PyGetSetDef getset[] = {
    {"capacity", (getter)shmq_stream_end_get_capacity, NULL, "Bytes.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The reading end of a byte fifo, made by ByteFifo.reader(). Not for two threads at once."},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, shmq_end_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec shmq_fifo_reader_spec = {
    .name = "shmq._native.FifoReader",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

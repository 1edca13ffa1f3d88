/* fifo_writer.c - the type FifoWriter. */
#include "shmq/native/end.h"

/* Free bytes, at least `want` if there are; with strategy eventfd a full fifo arms the descriptor. < 0: error set. */
static int64_t room_for(shmq_end *self, uint64_t want)
{
    shmq_fifo_end *w = &self->fifo;
    uint64_t room = shmq_fifo_room(w, want);
    if (__builtin_expect(room == 0, 0)) {
        shmq_stream_count(&self->stream->full_hits);
        if (shmq_end_arm(self))
            room = shmq_fifo_room(w, want);
        if (room == 0 && w->pos - w->peer > w->mask + 1) {
            shmq_end_corrupt(self);
            return -1;
        }
    }
    return (int64_t)room;
}

static void wake_reader(shmq_end *self)
{
    shmq_cell_wake(&self->stream->reader_cell, self->peer_efd);
}

/* Copy in what fits behind tail. How many bytes, 0: full, -1: error set. */
static int64_t write_some(shmq_end *self, const Py_buffer *from)
{
    int64_t room = room_for(self, (uint64_t)from->len);
    if (room <= 0)
        return room;
    uint64_t before = self->fifo.pos;
    int64_t n = self->ahead.count
                    ? shmq_fifo_write_at(&self->fifo, &self->ahead, 0, from->buf, (uint64_t)from->len)
                    : (int64_t)shmq_fifo_write(&self->fifo, from->buf, (uint64_t)from->len);
    if (self->fifo.pos != before)
        wake_reader(self);
    return n;
}

static PyObject *writer_try_write(shmq_end *self, PyObject *data)
{
    Py_buffer from;
    if (PyObject_GetBuffer(data, &from, PyBUF_SIMPLE) < 0)
        return NULL;
    int64_t n = -1;
    if (!SHMQ_END_READY(self))
        shmq_end_refuse(self);
    else
        n = from.len ? write_some(self, &from) : 0;
    PyBuffer_Release(&from);
    return n < 0 ? NULL : PyLong_FromLongLong(n);
}

static PyObject *write_once(shmq_end *self, void *arg)
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    const Py_buffer *from = arg;
    int64_t n = from->len ? write_some(self, from) : 0;
    return n < 0 || (n == 0 && from->len) ? NULL : PyLong_FromLongLong(n);
}

static PyObject *writer_write(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    Py_buffer from;
    if (!shmq_timeout_argument("write", args, nargs, kwnames, 1, &timeout_ns))
        return NULL;
    if (PyObject_GetBuffer(args[0], &from, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *written = shmq_end_pop(self, timeout_ns, write_once, &from);
    PyBuffer_Release(&from);
    return written;
}

static PyObject *writer_write_at(shmq_end *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2)
        return PyErr_Format(PyExc_TypeError, "write_at() takes an offset and data");
    Py_ssize_t offset = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    if (offset < 0)
        return PyErr_Format(PyExc_ValueError, "offset must not be negative, it is %zd", offset);
    Py_buffer from;
    if (PyObject_GetBuffer(args[1], &from, PyBUF_SIMPLE) < 0)
        return NULL;
    int64_t n = -1;
    if (!SHMQ_END_READY(self)) {
        shmq_end_refuse(self);
    } else if (room_for(self, UINT64_MAX) >= 0) {
        uint64_t before = self->fifo.pos;
        n = shmq_fifo_write_at(&self->fifo, &self->ahead, (uint64_t)offset, from.buf, (uint64_t)from.len);
        n = n < 0 ? 0 : n; /* too many pieces: nothing was kept */
        if (self->fifo.pos != before)
            wake_reader(self);
    }
    PyBuffer_Release(&from);
    return n < 0 ? NULL : PyLong_FromLongLong(n);
}

static PyObject *writer_reserve(shmq_end *self, PyObject *arg)
{
    Py_ssize_t want = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (want == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (want < 1)
        return PyErr_Format(PyExc_ValueError, "reserve at least one byte, not %zd", want);
    if (self->ahead.count)
        return PyErr_Format(PyExc_BufferError, "bytes are held ahead of the stream: fill the gap with write or write_at");
    int64_t room = room_for(self, (uint64_t)want);
    if (room < 0)
        return NULL;
    uint64_t at = self->fifo.pos & self->fifo.mask, n = (uint64_t)(room < want ? room : want);
    if (n > self->fifo.mask + 1 - at)
        n = self->fifo.mask + 1 - at;
    return shmq_end_lend(self, self->fifo.data + at, n, n);
}

static PyObject *writer_commit(shmq_end *self, PyObject *arg)
{
    int64_t n = shmq_end_count(self, arg, "commit");
    if (n < 0 || (self->view && !shmq_end_take_back(self)))
        return NULL;
    if (n) {
        shmq_fifo_publish(&self->fifo, self->fifo.pos + (uint64_t)n);
        wake_reader(self);
    }
    Py_RETURN_NONE;
}

static PyObject *writer_set_event(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    return PyBool_FromLong(shmq_fifo_set_event(&self->fifo));
}

static PyObject *get_held(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(shmq_fifo_held(&self->ahead));
}

static const shmq_end_kind writer_kind = {
    .noun = "byte fifo", .unit = "bytes", .damage = "cursor", .role = "writer", .peer = "reader", .lent = "reserved",
    .give_back = "commit", .is_producer = true, .find = shmq_stream_end_find, .bind = shmq_stream_end_bind,
    .ready = shmq_stream_end_ready, .stats = shmq_stream_end_stats,
};

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &writer_kind);
}

static PyMethodDef methods[] = {
    {"try_write", (PyCFunction)writer_try_write, METH_O,
     "try_write(data) -> int\n\nCopy in as many bytes as there is room for; how many, 0 when the fifo is full."},
    {"write", (PyCFunction)(void (*)(void))writer_write, METH_FASTCALL | METH_KEYWORDS,
     "write(data, timeout=None) -> int\n\nAs try_write, but wait up to timeout seconds (None: for ever) until at least "
     "one byte fits. Raises queue.Full on timeout, PeerDied when the fifo is full and the reader is dead."},
    {"awrite", shmq_end_awrite, METH_O,
     "await awrite(data) -> int\n\nCopy in as many bytes as there is room for, at least one when there are any; how many. "
     "For asyncio, with wait=\"eventfd\". A cancelled call has copied nothing. PeerDied when the fifo is full and the "
     "reader is dead, RuntimeError when another task waits."},
    {"write_at", (PyCFunction)(void (*)(void))writer_write_at, METH_FASTCALL,
     "write_at(offset, data) -> int\n\nCopy in bytes that belong `offset` bytes behind the last visible one; how many, "
     "from the first on, were kept: none beyond the room there is, nor when 32 separate pieces are held. The reader sees "
     "them once nothing before them is missing. What is held when the writer closes or dies is lost."},
    {"reserve", (PyCFunction)writer_reserve, METH_O,
     "reserve(n) -> memoryview\n\nA writable view of up to n free bytes, without copying; shorter at the end of the "
     "buffer or when there is less room, empty when the fifo is full. Until commit no other call is allowed."},
    {"commit", (PyCFunction)writer_commit, METH_O,
     "commit(n)\n\nPublish the first n reserved bytes and take the view back; 0 gives them all up. BufferError while a "
     "slice or an array over the view lives."},
    {"set_event", (PyCFunction)writer_set_event, METH_NOARGS,
     "set_event() -> bool\n\nSet the event flag after a write. True when it was clear: exactly then a reader that is told "
     "by other means than this class's waits must be sent a message."},
    SHMQ_END_METHODS,
};

static PyGetSetDef getset[] = {
    {"capacity", (getter)shmq_stream_end_get_capacity, NULL, "Bytes.", NULL},
    {"held", (getter)get_held, NULL, "Bytes that were written ahead and wait for those before them.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The writing end of a byte fifo, made by ByteFifo.writer(). Not for two threads at once."},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, shmq_end_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec shmq_fifo_writer_spec = {
    .name = "shmq._native.FifoWriter",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

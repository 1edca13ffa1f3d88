/* stream.c - what both ends of a byte stream share: finding it, its cursors, what it tells about itself. */
#include "shmq/native/end.h"

bool shmq_stream_end_find(shmq_end *self, void *at, uint64_t space)
{
    shmq_stream *stream = at;
    if (!shmq_stream_valid(stream, space))
        return false;
    bool writer = self->kind->is_producer;
    self->stream = stream;
    self->role = writer ? &stream->writer : &stream->reader;
    self->peer_role = writer ? &stream->reader : &stream->writer;
    self->cell = writer ? &stream->writer_cell : &stream->reader_cell;
    return true;
}

int shmq_stream_end_bind(shmq_end *self, uint64_t space)
{
    return shmq_stream_bind(&self->fifo, self->stream, space, self->kind->is_producer);
}

bool shmq_stream_end_ready(void *arg)
{
    const shmq_end *self = arg;
    const shmq_fifo_end *end = &self->fifo;
    if (self->kind->is_producer) {
        uint64_t used = end->pos - atomic_load_explicit(&end->fifo->head, memory_order_acquire); /* F1 */
        return used > end->mask + 1 || end->mask + 1 - used >= self->need;
    }
    return atomic_load_explicit(&end->fifo->tail, memory_order_acquire) != end->pos; /* F2 */
}

PyObject *shmq_stream_end_get_capacity(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(self->fifo.mask + 1);
}

static unsigned long long get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

static PyObject *stream_info(const shmq_stream *s)
{
    unsigned long long head = get(&s->fifo.head), tail = get(&s->fifo.tail); /* in this order: tail - head >= 0 */
    return Py_BuildValue(
        "{sKsKsKsKsKsKsKsKsKsKsKsKsKsI}", "capacity", (unsigned long long)s->capacity, "pushes", tail, "pops", head, "used",
        tail - head, "full_hits", get(&s->full_hits), "empty_hits", get(&s->empty_hits), "high_water",
        get(&s->high_water), "writer_parks", get(&s->writer_cell.parks), "writer_wakes", get(&s->writer_cell.wakes),
        "reader_parks", get(&s->reader_cell.parks), "reader_wakes", get(&s->reader_cell.wakes), "writer_token",
        get(&s->writer), "reader_token", get(&s->reader), "flags", s->flags);
}

PyObject *shmq_stream_end_stats(const shmq_end *self)
{
    return stream_info(self->stream);
}

PyObject *shmq_py_stream_bytes(PyObject *Py_UNUSED(module), PyObject *arg)
{
    Py_ssize_t capacity = PyNumber_AsSsize_t(arg, NULL);
    if (capacity == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(capacity > 0 ? shmq_stream_bytes((uint64_t)capacity) : 0);
}

PyObject *shmq_py_stream_init(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    unsigned long long capacity;
    unsigned flags;
    if (!PyArg_ParseTuple(args, "w*nKI:stream_init", &memory, &at, &capacity, &flags))
        return NULL;
    uint64_t need = shmq_stream_bytes(capacity);
    int rc = SHMQ_INVALID;
    if (at >= 0 && need && (uint64_t)memory.len >= need + (uint64_t)at)
        rc = shmq_stream_init((char *)memory.buf + at, capacity, flags);
    PyBuffer_Release(&memory);
    if (rc != SHMQ_OK)
        return PyErr_Format(PyExc_ValueError, "a byte fifo of this capacity does not fit here");
    Py_RETURN_NONE;
}

PyObject *shmq_py_stream_info(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "w*n:stream_info", &memory, &at))
        return NULL;
    PyObject *result;
    if (at >= 0 && at <= memory.len && shmq_stream_valid((char *)memory.buf + at, (uint64_t)(memory.len - at)))
        result = stream_info((shmq_stream *)((char *)memory.buf + at));
    else
        result = Py_NewRef(Py_None);
    PyBuffer_Release(&memory);
    return result;
}

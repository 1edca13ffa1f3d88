/* channel.c - what both ends of a channel share: finding it, its cursors, what it tells about itself. */
#include "shmq/native/end.h"

bool shmq_channel_end_find(shmq_end *self, void *at, uint64_t space)
{
    return shmq_channel_valid(at, space) &&
           shmq_ring_end_find(self, &((shmq_channel *)at)->ring, space - offsetof(shmq_channel, ring));
}

int shmq_channel_end_bind(shmq_end *self, uint64_t space)
{
    shmq_channel *channel = shmq_channel_of(self->ring);
    if (self->kind->is_producer) {
        int rc = shmq_channel_producer_bind(&self->producer, channel, space);
        self->producer.efd = self->peer_efd;
        return rc;
    }
    int rc = shmq_channel_consumer_bind(&self->consumer, channel, space);
    self->consumer.efd = self->peer_efd;
    return rc;
}

static int set(PyObject *info, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int rc = number ? PyDict_SetItemString(info, name, number) : -1;
    Py_XDECREF(number);
    return rc;
}

/* The ring's counters, with messages for slots where a reader expects them. */
static PyObject *channel_info(shmq_channel *channel)
{
    uint64_t popped = atomic_load_explicit(&channel->popped, memory_order_acquire); /* before pushed: a difference >= 0 */
    uint64_t pushed = atomic_load_explicit(&channel->pushed, memory_order_acquire);
    PyObject *info = shmq_ring_info(&channel->ring);
    if (!info)
        return NULL;
    PyObject *bytes_in = PyDict_GetItemString(info, "pushes"), *bytes_out = PyDict_GetItemString(info, "pops");
    if (PyDict_SetItemString(info, "bytes_pushed", bytes_in) < 0 || PyDict_SetItemString(info, "bytes_popped", bytes_out) < 0 ||
        set(info, "pushes", pushed) < 0 || set(info, "pops", popped) < 0 ||
        set(info, "messages", pushed - popped) < 0 || PyDict_DelItemString(info, "slot_size") < 0)
        Py_CLEAR(info);
    return info;
}

PyObject *shmq_channel_end_stats(const shmq_end *self)
{
    return channel_info(shmq_channel_of(self->ring));
}

PyObject *shmq_py_channel_bytes(PyObject *Py_UNUSED(module), PyObject *arg)
{
    Py_ssize_t capacity = PyNumber_AsSsize_t(arg, NULL);
    if (capacity == -1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(capacity > 0 ? shmq_channel_bytes((uint64_t)capacity) : 0);
}

PyObject *shmq_py_channel_init(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    unsigned long long capacity;
    unsigned flags;
    if (!PyArg_ParseTuple(args, "w*nKI:channel_init", &memory, &at, &capacity, &flags))
        return NULL;
    uint64_t need = shmq_channel_bytes(capacity);
    int rc = SHMQ_INVALID;
    if (at >= 0 && need && (uint64_t)memory.len >= need + (uint64_t)at) {
        shmq_channel *channel = (shmq_channel *)((char *)memory.buf + at);
        rc = shmq_channel_init(channel, capacity);
        if (rc == SHMQ_OK)
            channel->ring.flags = flags;
    }
    PyBuffer_Release(&memory);
    if (rc != SHMQ_OK)
        return PyErr_Format(PyExc_ValueError, "a channel of this capacity does not fit here");
    Py_RETURN_NONE;
}

PyObject *shmq_py_channel_info(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "w*n:channel_info", &memory, &at))
        return NULL;
    PyObject *result;
    if (at >= 0 && at <= memory.len && shmq_channel_valid((char *)memory.buf + at, (uint64_t)(memory.len - at)))
        result = channel_info((shmq_channel *)((char *)memory.buf + at));
    else
        result = Py_NewRef(Py_None);
    PyBuffer_Release(&memory);
    return result;
}

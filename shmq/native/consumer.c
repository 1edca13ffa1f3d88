/* consumer.c - the type RingConsumer. */
#include "shmq/native/end.h"

/* Filled slots, at least `want` if there are; with strategy eventfd an empty ring arms the descriptor. */
static int64_t ready_for(shmq_end *self, uint64_t want)
{
    int64_t ready = shmq_consumer_ready(&self->consumer, want);
    if (ready == 0 && shmq_end_arm(self))
        ready = shmq_consumer_ready(&self->consumer, want);
    return ready;
}

static void release(shmq_end *self, uint64_t n)
{
    shmq_consumer_release(&self->consumer, n);
    shmq_ring_wake_producer(&self->consumer);
}

/* The i-th filled slot as bytes; it stays in the ring. */
static PyObject *slot_bytes(const shmq_end *self, uint64_t i)
{
    uint32_t size = self->consumer.slot_size;
    PyObject *record = PyBytes_FromStringAndSize(NULL, size);
    if (record)
        shmq_slot_copy(PyBytes_AS_STRING(record), shmq_consumer_slot(&self->consumer, self->consumer.head + i), size);
    return record;
}

/* The next record, or NULL: with an exception set, or without because the ring is empty. */
static PyObject *pop_once(shmq_end *self, void *Py_UNUSED(unused))
{
    int64_t ready = ready_for(self, 1);
    if (__builtin_expect(ready > 0, 1)) {
        PyObject *record = slot_bytes(self, 0);
        if (record)
            release(self, 1);
        return record;
    }
    return ready < 0 ? shmq_end_corrupt(self) : NULL;
}

static PyObject *consumer_try_pop(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    PyObject *record = pop_once(self, NULL);
    if (record || PyErr_Occurred())
        return record;
    Py_RETURN_NONE;
}

static PyObject *consumer_pop(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("pop", args, nargs, kwnames, 0, &timeout_ns))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    return shmq_end_pop(self, timeout_ns, pop_once, NULL);
}

static PyObject *consumer_pop_many(shmq_end *self, PyObject *arg)
{
    Py_ssize_t max = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (max == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (max < 0)
        return PyErr_Format(PyExc_ValueError, "max must not be negative, it is %zd", max);
    int64_t ready = max ? ready_for(self, (uint64_t)max) : 0;
    if (ready < 0)
        return shmq_end_corrupt(self);
    Py_ssize_t n = ready < max ? (Py_ssize_t)ready : max;
    shmq_end_hold(self);
    PyObject *records = PyList_New(n);
    shmq_end_unhold(self);
    for (Py_ssize_t i = 0; records && i < n; i++) {
        PyObject *record = slot_bytes(self, (uint64_t)i);
        if (record)
            PyList_SET_ITEM(records, i, record);
        else
            Py_CLEAR(records);
    }
    if (records && n)
        release(self, (uint64_t)n);
    return records;
}

static PyObject *consumer_pop_array(shmq_end *self, PyObject *out)
{
    Py_buffer buffer;
    uint64_t slots;
    if (!shmq_end_slots_buffer(self, out, PyBUF_WRITABLE, &buffer, &slots))
        return NULL;
    if (!SHMQ_END_READY(self)) {
        PyBuffer_Release(&buffer);
        return shmq_end_refuse(self);
    }
    int64_t n = slots ? ready_for(self, slots) : 0;
    if (n > 0)
        n = shmq_ring_pop_n(&self->consumer, buffer.buf, slots);
    if (n > 0)
        shmq_ring_wake_producer(&self->consumer);
    PyBuffer_Release(&buffer);
    return n < 0 ? shmq_end_corrupt(self) : PyLong_FromLongLong(n);
}

static PyObject *consumer_peek(shmq_end *self, PyObject *arg)
{
    Py_ssize_t want = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (want == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (want < 1)
        return PyErr_Format(PyExc_ValueError, "peek at least one slot, not %zd", want);
    int64_t ready = ready_for(self, (uint64_t)want);
    if (ready < 0)
        return shmq_end_corrupt(self);
    uint64_t n = (uint64_t)(ready < want ? ready : want);
    uint64_t straight = self->consumer.mask + 1 - (self->consumer.head & self->consumer.mask);
    if (n > straight)
        n = straight;
    return shmq_end_lend(self, (void *)shmq_consumer_slot(&self->consumer, self->consumer.head),
                         n * self->consumer.slot_size, n);
}

static PyObject *consumer_release(shmq_end *self, PyObject *arg)
{
    int64_t n = shmq_end_count(self, arg, "release");
    if (n < 0 || (self->view && !shmq_end_take_back(self)))
        return NULL;
    if (n)
        release(self, (uint64_t)n);
    Py_RETURN_NONE;
}

static const shmq_end_kind consumer_kind = {
    .noun = "ring", .unit = "slots", .damage = "cursor", .role = "consumer", .peer = "producer", .lent = "peeked",
    .give_back = "release", .find = shmq_ring_end_find, .bind = shmq_ring_end_bind, .ready = shmq_ring_end_ready,
    .stats = shmq_ring_end_stats,
};

static PyObject *consumer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &consumer_kind);
}

static PyMethodDef consumer_methods[] = {
    {"try_pop", (PyCFunction)consumer_try_pop, METH_NOARGS,
     "try_pop() -> bytes | None\n\nTake the oldest record out; None when the ring is empty."},
    {"pop", (PyCFunction)(void (*)(void))consumer_pop, METH_FASTCALL | METH_KEYWORDS,
     "pop(timeout=None) -> bytes\n\nTake the oldest record out, waiting up to timeout seconds for one (None: for "
     "ever). Raises queue.Empty on timeout, PeerDied when the ring is empty and the producer is dead."},
    {"pop_many", (PyCFunction)consumer_pop_many, METH_O,
     "pop_many(max) -> list[bytes]\n\nTake up to max records out, those that are there."},
    {"pop_array", (PyCFunction)consumer_pop_array, METH_O,
     "pop_array(out) -> int\n\nTake records out into a writable C-contiguous buffer or array, as many as it holds and "
     "are there; how many."},
    {"peek", (PyCFunction)consumer_peek, METH_O,
     "peek(n) -> memoryview\n\nA read-only view of up to n of the oldest records, without copying; shorter at the end "
     "of the slot array or when there are fewer, empty when the ring is. Until release no other call is allowed."},
    {"release", (PyCFunction)consumer_release, METH_O,
     "release(n)\n\nTake the view back and the first n peeked records out of the ring; 0 leaves them all. BufferError "
     "while a slice or an array over the view lives."},
    SHMQ_APOP_METHOD,
    SHMQ_END_METHODS,
};

static PyGetSetDef consumer_getset[] = {
    {"capacity", (getter)shmq_end_get_capacity, NULL, "Slots in the ring.", NULL},
    {"slot_size", (getter)shmq_end_get_slot_size, NULL, "Bytes per slot.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot consumer_slots[] = {
    {Py_tp_doc, "The consuming end of a ring, made by Ring.consumer(). Not for two threads at once."},
    {Py_tp_new, consumer_new},
    {Py_tp_dealloc, shmq_end_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, consumer_methods},
    {Py_tp_getset, consumer_getset},
    {0, NULL},
};

PyType_Spec shmq_consumer_spec = {
    .name = "shmq._native.RingConsumer",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = consumer_slots,
};

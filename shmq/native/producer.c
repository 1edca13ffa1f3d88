/* producer.c - the type RingProducer. */
#include "shmq/native/end.h"

static PyObject *wrong_size(const shmq_end *self, Py_ssize_t size)
{
    return PyErr_Format(PyExc_ValueError, "a record of this ring has %u bytes, not %zd", self->producer.slot_size, size);
}

/* Copy one record into the i-th free slot behind tail. False: error set. */
static bool put(shmq_end *self, uint64_t tail, uint64_t i, PyObject *record)
{
    uint32_t size = self->producer.slot_size;
    if (PyBytes_CheckExact(record)) {
        if (PyBytes_GET_SIZE(record) == (Py_ssize_t)size) {
            shmq_slot_copy(shmq_producer_slot(&self->producer, i), PyBytes_AS_STRING(record), size);
            return true;
        }
        wrong_size(self, PyBytes_GET_SIZE(record));
        return false;
    }
    Py_buffer buffer;
    if (PyObject_GetBuffer(record, &buffer, PyBUF_SIMPLE) < 0)
        return false;
    bool done = false;
    if (!SHMQ_END_READY(self))
        shmq_end_refuse(self);
    else if (self->producer.tail != tail)
        PyErr_SetString(PyExc_RuntimeError, "a record's __buffer__ pushed to the same ring");
    else if (buffer.len != (Py_ssize_t)size)
        wrong_size(self, buffer.len);
    else {
        memcpy(shmq_producer_slot(&self->producer, i), buffer.buf, size);
        done = true;
    }
    PyBuffer_Release(&buffer);
    return done;
}

static void publish(shmq_end *self, uint64_t n)
{
    shmq_producer_publish(&self->producer, n);
    shmq_ring_wake_consumer(&self->producer);
}

/* Free slots, at least `want` if there are; with strategy eventfd a full ring arms the descriptor. */
static int64_t room_for(shmq_end *self, uint64_t want)
{
    int64_t room = shmq_producer_room(&self->producer, want);
    if (room == 0 && shmq_end_arm(self))
        room = shmq_producer_room(&self->producer, want);
    return room;
}

/* The ring is full; does not excuse a record that would never fit. */
static int refuse_or_full(shmq_end *self, PyObject *record)
{
    Py_ssize_t size;
    if (PyBytes_CheckExact(record)) { /* a polled full ring comes here all the time */
        size = PyBytes_GET_SIZE(record);
    } else {
        Py_buffer buffer;
        if (PyObject_GetBuffer(record, &buffer, PyBUF_SIMPLE) < 0)
            return -1;
        size = buffer.len;
        PyBuffer_Release(&buffer);
    }
    if (size == (Py_ssize_t)self->producer.slot_size)
        return 0;
    wrong_size(self, size);
    return -1;
}

/* 1: pushed, 0: full, -1: error set. */
static int push_once(shmq_end *self, PyObject *record)
{
    int64_t room = room_for(self, 1);
    if (__builtin_expect(room > 0, 1)) {
        if (!put(self, self->producer.tail, 0, record))
            return -1;
        publish(self, 1);
        return 1;
    }
    if (room == 0)
        return refuse_or_full(self, record);
    shmq_end_corrupt(self);
    return -1;
}

static PyObject *producer_try_push(shmq_end *self, PyObject *record)
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    int rc = push_once(self, record);
    if (rc < 0)
        return NULL;
    return Py_NewRef(rc ? Py_True : Py_False);
}

static PyObject *producer_push(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("push", args, nargs, kwnames, 1, &timeout_ns))
        return NULL;
    return shmq_end_push(self, args[0], timeout_ns, push_once);
}

/* Copy the first n records of a sequence into free slots; false: error set. */
static bool put_all(shmq_end *self, PyObject *sequence, Py_ssize_t n)
{
    uint64_t tail = self->producer.tail;
    bool done = true;
    for (Py_ssize_t i = 0; done && i < n; i++) {
        if (i >= PySequence_Fast_GET_SIZE(sequence)) { /* a list can shrink while a __buffer__ runs */
            PyErr_SetString(PyExc_RuntimeError, "the sequence changed during push_many");
            return false;
        }
        PyObject *record = Py_NewRef(PySequence_Fast_GET_ITEM(sequence, i));
        done = put(self, tail, (uint64_t)i, record);
        Py_DECREF(record);
    }
    return done;
}

static PyObject *producer_push_many(shmq_end *self, PyObject *records)
{
    PyObject *sequence = PySequence_Fast(records, "push_many needs a sequence of bytes-like objects");
    if (!sequence)
        return NULL;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(sequence);
    PyObject *result = NULL;
    if (!SHMQ_END_READY(self)) {
        shmq_end_refuse(self);
    } else {
        int64_t room = n ? room_for(self, (uint64_t)n) : 0;
        n = room < n ? (Py_ssize_t)room : n;
        if (n < 0) {
            shmq_end_corrupt(self);
        } else if (put_all(self, sequence, n)) { /* nothing is published before all have been copied */
            if (n)
                publish(self, (uint64_t)n);
            result = PyLong_FromSsize_t(n);
        }
    }
    Py_DECREF(sequence);
    return result;
}

static PyObject *producer_push_array(shmq_end *self, PyObject *records)
{
    Py_buffer buffer;
    uint64_t slots;
    if (!shmq_end_slots_buffer(self, records, PyBUF_SIMPLE, &buffer, &slots))
        return NULL;
    if (!SHMQ_END_READY(self)) {
        PyBuffer_Release(&buffer);
        return shmq_end_refuse(self);
    }
    int64_t n = slots ? room_for(self, slots) : 0;
    if (n > 0)
        n = shmq_ring_push_n(&self->producer, buffer.buf, slots);
    if (n > 0)
        shmq_ring_wake_consumer(&self->producer);
    PyBuffer_Release(&buffer);
    return n < 0 ? shmq_end_corrupt(self) : PyLong_FromLongLong(n);
}

static PyObject *producer_reserve(shmq_end *self, PyObject *arg)
{
    Py_ssize_t want = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (want == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (want < 1)
        return PyErr_Format(PyExc_ValueError, "reserve at least one slot, not %zd", want);
    int64_t room = room_for(self, (uint64_t)want);
    if (room < 0)
        return shmq_end_corrupt(self);
    uint64_t n = (uint64_t)(room < want ? room : want);
    uint64_t straight = self->producer.mask + 1 - (self->producer.tail & self->producer.mask);
    if (n > straight)
        n = straight;
    return shmq_end_lend(self, shmq_producer_slot(&self->producer, 0), n * self->producer.slot_size, n);
}

static PyObject *producer_commit(shmq_end *self, PyObject *arg)
{
    int64_t n = shmq_end_count(self, arg, "commit");
    if (n < 0 || (self->view && !shmq_end_take_back(self)))
        return NULL;
    if (n)
        publish(self, (uint64_t)n);
    Py_RETURN_NONE;
}

static const shmq_end_kind producer_kind = {
    .noun = "ring", .unit = "slots", .damage = "cursor", .role = "producer", .peer = "consumer", .lent = "reserved",
    .give_back = "commit", .is_producer = true, .find = shmq_ring_end_find, .bind = shmq_ring_end_bind,
    .ready = shmq_ring_end_ready, .stats = shmq_ring_end_stats,
};

static PyObject *producer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &producer_kind);
}

static PyMethodDef producer_methods[] = {
    {"try_push", (PyCFunction)producer_try_push, METH_O,
     "try_push(record) -> bool\n\nCopy one record of slot_size bytes in; False when the ring is full."},
    {"push", (PyCFunction)(void (*)(void))producer_push, METH_FASTCALL | METH_KEYWORDS,
     "push(record, timeout=None)\n\nCopy one record in, waiting up to timeout seconds for room (None: for ever). "
     "Raises queue.Full on timeout, PeerDied when the ring is full and the consumer is dead."},
    {"push_many", (PyCFunction)producer_push_many, METH_O,
     "push_many(records) -> int\n\nCopy in as many records of a sequence as there is room for; how many. All become "
     "visible at once; if one is unfit, none."},
    {"push_array", (PyCFunction)producer_push_array, METH_O,
     "push_array(buffer) -> int\n\nCopy in records that lie one after another in a C-contiguous buffer or array; how "
     "many there was room for."},
    {"reserve", (PyCFunction)producer_reserve, METH_O,
     "reserve(n) -> memoryview\n\nA writable view of up to n free slots, without copying; shorter at the end of the "
     "slot array or when there is less room, empty when the ring is full. Until commit no other call is allowed."},
    {"commit", (PyCFunction)producer_commit, METH_O,
     "commit(n)\n\nPublish the first n reserved slots and take the view back; 0 gives them all up. BufferError while "
     "a slice or an array over the view lives."},
    SHMQ_APUSH_METHOD,
    SHMQ_END_METHODS,
};

static PyGetSetDef producer_getset[] = {
    {"capacity", (getter)shmq_end_get_capacity, NULL, "Slots in the ring.", NULL},
    {"slot_size", (getter)shmq_end_get_slot_size, NULL, "Bytes per slot.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot producer_slots[] = {
    {Py_tp_doc, "The producing end of a ring, made by Ring.producer(). Not for two threads at once."},
    {Py_tp_new, producer_new},
    {Py_tp_dealloc, shmq_end_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, producer_methods},
    {Py_tp_getset, producer_getset},
    {0, NULL},
};

PyType_Spec shmq_producer_spec = {
    .name = "shmq._native.RingProducer",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = producer_slots,
};

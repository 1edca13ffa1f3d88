/* channel_producer.c - the type ChannelProducer. */
#include "shmq/native/end.h"

/* What a message's bytes come from. `buffer.obj` is NULL for an exact bytes object, which needs no release. */
typedef struct {
    const void *data;
    Py_ssize_t length;
    Py_buffer buffer;
} source;

static bool open_source(PyObject *message, source *from)
{
    from->buffer.obj = NULL;
    if (PyBytes_CheckExact(message)) {
        from->data = PyBytes_AS_STRING(message);
        from->length = PyBytes_GET_SIZE(message);
        return true;
    }
    if (PyObject_GetBuffer(message, &from->buffer, PyBUF_SIMPLE) < 0)
        return false;
    from->data = from->buffer.buf;
    from->length = from->buffer.len;
    return true;
}

static void close_source(source *from)
{
    if (from->buffer.obj)
        PyBuffer_Release(&from->buffer);
}

static void too_long(const shmq_end *self, Py_ssize_t length)
{
    unsigned long long limit = shmq_channel_limit(self->producer.mask);
    PyErr_Format(PyExc_ValueError, "a message of %zd bytes does not fit: this channel takes at most %llu, half its "
                 "capacity", length, limit);
}

/* Find room; with strategy eventfd a lack of it arms the descriptor. SHMQ_OK, SHMQ_FULL or, error set, another. */
static int reserve(shmq_end *self, uint64_t ahead, Py_ssize_t length, shmq_message *m)
{
    int rc = shmq_channel_reserve(&self->producer, ahead, (uint64_t)length, m);
    if (__builtin_expect(rc == SHMQ_OK, 1))
        return rc;
    if (rc == SHMQ_FULL && ahead == 0) {
        self->need = m->span;
        if (shmq_end_arm(self))
            rc = shmq_channel_reserve(&self->producer, 0, (uint64_t)length, m);
    }
    if (rc == SHMQ_INVALID)
        too_long(self, length);
    else if (rc == SHMQ_CORRUPT)
        shmq_end_corrupt(self);
    return rc;
}

/* Copy one message behind `ahead` unpublished bytes. Its span, 0: full, -1: error set. */
static int64_t put(shmq_end *self, uint64_t tail, uint64_t ahead, PyObject *message)
{
    source from;
    shmq_message m;
    int64_t span = -1;
    if (!open_source(message, &from))
        return -1;
    if (__builtin_expect(!SHMQ_END_READY(self), 0)) {
        shmq_end_refuse(self);
    } else if (__builtin_expect(self->producer.tail != tail, 0)) {
        PyErr_SetString(PyExc_RuntimeError, "a message's __buffer__ pushed to the same channel");
    } else {
        int rc = reserve(self, ahead, from.length, &m);
        if (__builtin_expect(rc == SHMQ_OK, 1)) {
            shmq_slot_copy(m.payload, from.data, (uint32_t)m.length);
            span = (int64_t)shmq_channel_seal(&self->producer, ahead, &m, m.length);
        } else if (rc == SHMQ_FULL) {
            span = 0;
        }
    }
    close_source(&from);
    return span;
}

static void publish(shmq_end *self, uint64_t span, uint64_t messages)
{
    shmq_channel_publish(&self->producer, span, messages);
    shmq_ring_wake_consumer(&self->producer);
}

/* 1: pushed, 0: full, -1: error set. */
static int push_once(shmq_end *self, PyObject *message)
{
    int64_t span = put(self, self->producer.tail, 0, message);
    if (__builtin_expect(span <= 0, 0))
        return (int)span;
    publish(self, (uint64_t)span, 1);
    return 1;
}

static PyObject *channel_try_push(shmq_end *self, PyObject *message)
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    int rc = push_once(self, message);
    if (rc < 0)
        return NULL;
    return Py_NewRef(rc ? Py_True : Py_False);
}

static PyObject *channel_push(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("push", args, nargs, kwnames, 1, &timeout_ns))
        return NULL;
    return shmq_end_push(self, args[0], timeout_ns, push_once);
}

/* Copy messages of a sequence behind tail until one does not fit. How many, or -1; *span: their bytes. */
static Py_ssize_t put_all(shmq_end *self, PyObject *sequence, uint64_t *span)
{
    uint64_t tail = self->producer.tail;
    Py_ssize_t n = 0;
    *span = 0;
    for (; n < PySequence_Fast_GET_SIZE(sequence); n++) { /* a list can shrink while a __buffer__ runs */
        PyObject *message = Py_NewRef(PySequence_Fast_GET_ITEM(sequence, n));
        int64_t more = put(self, tail, *span, message);
        Py_DECREF(message);
        if (more < 0)
            return -1;
        if (more == 0)
            break;
        *span += (uint64_t)more;
    }
    return n;
}

static PyObject *channel_push_many(shmq_end *self, PyObject *messages)
{
    PyObject *sequence = PySequence_Fast(messages, "push_many needs a sequence of bytes-like objects");
    if (!sequence)
        return NULL;
    PyObject *result = NULL;
    if (!SHMQ_END_READY(self)) {
        shmq_end_refuse(self);
    } else {
        uint64_t span;
        Py_ssize_t n = put_all(self, sequence, &span); /* nothing is published before all have been copied */
        if (n > 0)
            publish(self, span, (uint64_t)n);
        if (n >= 0)
            result = PyLong_FromSsize_t(n);
    }
    Py_DECREF(sequence);
    return result;
}

static PyObject *channel_reserve(shmq_end *self, PyObject *arg)
{
    Py_ssize_t length = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    shmq_message m;
    if (length == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (length < 0)
        return PyErr_Format(PyExc_ValueError, "a message cannot have %zd bytes", length);
    int rc = reserve(self, 0, length, &m);
    if (rc == SHMQ_FULL)
        Py_RETURN_NONE;
    if (rc != SHMQ_OK)
        return NULL;
    self->message = m;
    return shmq_end_lend(self, m.payload, m.length, m.length);
}

static PyObject *channel_commit(shmq_end *self, PyObject *arg)
{
    int64_t length = shmq_end_count(self, arg, "commit");
    if (length < 0)
        return NULL;
    if (!self->view)
        return PyErr_Format(PyExc_ValueError, "nothing is reserved: call reserve first");
    if (!shmq_end_take_back(self))
        return NULL;
    publish(self, shmq_channel_seal(&self->producer, 0, &self->message, (uint64_t)length), 1);
    Py_RETURN_NONE;
}

static PyObject *channel_cancel(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!self->shared || self->busy || self->generation != shmq_fork_generation)
        return shmq_end_refuse(self);
    if (self->view && !shmq_end_take_back(self))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *get_max_message(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(shmq_channel_limit(self->producer.mask));
}

static const shmq_end_kind producer_kind = {
    .noun = "channel", .unit = "bytes", .damage = "cursor", .role = "producer", .peer = "consumer", .lent = "reserved",
    .give_back = "commit", .is_producer = true, .find = shmq_channel_end_find, .bind = shmq_channel_end_bind,
    .ready = shmq_ring_end_ready, .stats = shmq_channel_end_stats,
};

static PyObject *channel_producer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &producer_kind);
}

static PyMethodDef methods[] = {
    {"try_push", (PyCFunction)channel_try_push, METH_O,
     "try_push(message) -> bool\n\nCopy one message in; False when there is no room for it now. ValueError when it is "
     "longer than max_message."},
    {"push", (PyCFunction)(void (*)(void))channel_push, METH_FASTCALL | METH_KEYWORDS,
     "push(message, timeout=None)\n\nCopy one message in, waiting up to timeout seconds for room (None: for ever). "
     "Raises queue.Full on timeout, PeerDied when there is no room and the consumer is dead."},
    {"push_many", (PyCFunction)channel_push_many, METH_O,
     "push_many(messages) -> int\n\nCopy in messages of a sequence until one does not fit now; how many. All become "
     "visible at once; if one is unfit, none."},
    {"reserve", (PyCFunction)channel_reserve, METH_O,
     "reserve(n) -> memoryview | None\n\nA writable view for a message of up to n bytes, in the channel itself; None "
     "when there is no room now. Until commit or cancel no other call is allowed."},
    {"commit", (PyCFunction)channel_commit, METH_O,
     "commit(n)\n\nPublish the first n reserved bytes as one message (n may be 0) and take the view back. BufferError "
     "while a slice or an array over the view lives."},
    {"cancel", (PyCFunction)channel_cancel, METH_NOARGS,
     "cancel()\n\nTake the reserved view back and publish nothing."},
    SHMQ_APUSH_METHOD,
    SHMQ_END_METHODS,
};

static PyGetSetDef getset[] = {
    {"capacity", (getter)shmq_end_get_capacity, NULL, "Bytes, those of the messages' headers included.", NULL},
    {"max_message", (getter)get_max_message, NULL, "Bytes of the longest message: half the capacity.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The producing end of a channel, made by Channel.producer(). Not for two threads at once."},
    {Py_tp_new, channel_producer_new},
    {Py_tp_dealloc, shmq_end_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec shmq_channel_producer_spec = {
    .name = "shmq._native.ChannelProducer",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

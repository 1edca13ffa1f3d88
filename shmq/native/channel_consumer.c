/* channel_consumer.c - the type ChannelConsumer. */
#include "shmq/native/end.h"

/* The next message that was not handed out; with strategy eventfd an empty channel arms the descriptor. SHMQ_OK,
 * SHMQ_EMPTY or, error set, SHMQ_CORRUPT. */
static int look(shmq_end *self, shmq_message *m)
{
    int rc = shmq_channel_look(&self->consumer, m);
    if (__builtin_expect(rc == SHMQ_OK, 1))
        return rc;
    if (rc == SHMQ_EMPTY && shmq_end_arm(self))
        rc = shmq_channel_look(&self->consumer, m);
    if (rc == SHMQ_CORRUPT)
        shmq_end_corrupt(self);
    return rc;
}

static void release(shmq_end *self, uint64_t span, uint64_t messages)
{
    shmq_channel_release(&self->consumer, span, messages);
    shmq_ring_wake_producer(&self->consumer);
}

/* Nothing that was looked at is taken: the next look begins at the oldest message again. */
static void rewind_reading(shmq_end *self)
{
    self->consumer.read = self->consumer.head;
}

static PyObject *message_bytes(const shmq_message *m)
{
    PyObject *message = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)m->length);
    if (message)
        shmq_slot_copy(PyBytes_AS_STRING(message), m->payload, (uint32_t)m->length);
    return message;
}

/* The next message, or NULL: with an exception set, or without because the channel is empty. */
static PyObject *pop_once(shmq_end *self, void *Py_UNUSED(unused))
{
    shmq_message m;
    if (look(self, &m) != SHMQ_OK)
        return NULL;
    PyObject *message = message_bytes(&m);
    if (message)
        release(self, m.span, 1);
    return message;
}

static PyObject *channel_try_pop(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    PyObject *message = pop_once(self, NULL);
    if (message || PyErr_Occurred())
        return message;
    Py_RETURN_NONE;
}

static PyObject *channel_pop(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("pop", args, nargs, kwnames, 0, &timeout_ns))
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    return shmq_end_pop(self, timeout_ns, pop_once, NULL);
}

/* How a batch ends: false when there is an exception to raise. What came before a damaged message is
 * delivered; the next call reports the damage. */
static bool batch_ends(int rc, bool first)
{
    if (rc == SHMQ_CORRUPT && !first)
        PyErr_Clear();
    return rc == SHMQ_EMPTY || !first;
}

/* Append messages to a list while there are any and fewer than max. False: error set. */
static bool collect(shmq_end *self, PyObject *messages, Py_ssize_t max, uint64_t *span)
{
    while (PyList_GET_SIZE(messages) < max) {
        shmq_message m;
        int rc = look(self, &m);
        if (rc != SHMQ_OK)
            return batch_ends(rc, *span == 0);
        PyObject *message = message_bytes(&m);
        if (!message || PyList_Append(messages, message) < 0) {
            Py_XDECREF(message);
            return false;
        }
        Py_DECREF(message);
        shmq_channel_take(&self->consumer, &m);
        *span += m.span;
    }
    return true;
}

static PyObject *channel_pop_many(shmq_end *self, PyObject *arg)
{
    Py_ssize_t max = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (max == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (max < 0)
        return PyErr_Format(PyExc_ValueError, "max must not be negative, it is %zd", max);
    uint64_t span = 0;
    shmq_end_hold(self);
    PyObject *messages = PyList_New(0);
    bool done = messages && collect(self, messages, max, &span);
    shmq_end_unhold(self);
    rewind_reading(self);
    if (!done) {
        Py_XDECREF(messages);
        return NULL;
    }
    if (span)
        release(self, span, (uint64_t)PyList_GET_SIZE(messages));
    return messages;
}

/* Copy the next message into a Py_buffer and return its length; NULL as pop_once. */
static PyObject *pop_into_once(shmq_end *self, void *arg)
{
    Py_buffer *into = arg;
    shmq_message m;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (look(self, &m) != SHMQ_OK)
        return NULL;
    if (m.length > (uint64_t)into->len)
        return PyErr_Format(PyExc_ValueError, "the next message has %llu bytes, the buffer only %zd: it stays in the "
                            "channel", (unsigned long long)m.length, into->len);
    memcpy(into->buf, m.payload, m.length);
    release(self, m.span, 1);
    return PyLong_FromUnsignedLongLong(m.length);
}

static PyObject *channel_pop_into(shmq_end *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    Py_buffer into;
    if (!shmq_timeout_argument("pop_into", args, nargs, kwnames, 1, &timeout_ns))
        return NULL;
    if (PyObject_GetBuffer(args[0], &into, PyBUF_WRITABLE) < 0)
        return NULL;
    PyObject *length = shmq_end_pop(self, timeout_ns, pop_into_once, &into);
    PyBuffer_Release(&into);
    return length;
}

/* Remember where the i-th lent message ends, counted from head. False: error set. */
static bool remember(shmq_end *self, Py_ssize_t i, uint64_t span)
{
    if (i >= self->spans_room) {
        Py_ssize_t room = i < 8 ? 8 : 2 * i;
        uint64_t *spans = PyMem_Resize(self->spans, uint64_t, room);
        if (!spans) {
            PyErr_NoMemory();
            return false;
        }
        self->spans = spans;
        self->spans_room = room;
    }
    self->spans[i] = span;
    return true;
}

/* Append views of up to n messages; as collect. */
static bool lend_all(shmq_end *self, PyObject *lease, PyObject *views, Py_ssize_t n)
{
    uint64_t span = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        shmq_message m;
        int rc = look(self, &m);
        if (rc != SHMQ_OK)
            return batch_ends(rc, i == 0);
        span += m.span;
        PyObject *view = remember(self, i, span) ? shmq_lease_view(lease, m.payload, m.length) : NULL;
        if (!view || PyList_Append(views, view) < 0) {
            Py_XDECREF(view);
            return false;
        }
        Py_DECREF(view);
        shmq_channel_take(&self->consumer, &m);
    }
    return true;
}

static PyObject *peek_many(shmq_end *self, Py_ssize_t n)
{
    shmq_end_hold(self);
    PyObject *lease = shmq_lease_new(self), *views = PyList_New(0), *kept = NULL;
    if (lease && views && lend_all(self, lease, views, n))
        kept = PyList_AsTuple(views);
    if (kept && PyTuple_GET_SIZE(kept))
        shmq_end_lent(self, lease, kept, (uint64_t)PyTuple_GET_SIZE(kept));
    if (!kept)
        Py_CLEAR(views);
    Py_XDECREF(kept);
    Py_XDECREF(lease);
    shmq_end_unhold(self);
    rewind_reading(self);
    return views;
}

static PyObject *peek_one(shmq_end *self)
{
    shmq_message m;
    int rc = look(self, &m);
    if (rc == SHMQ_EMPTY)
        Py_RETURN_NONE;
    if (rc != SHMQ_OK || !remember(self, 0, m.span))
        return NULL;
    return shmq_end_lend(self, m.payload, m.length, 1);
}

static PyObject *channel_peek(shmq_end *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1)
        return PyErr_Format(PyExc_TypeError, "peek() takes at most one argument, the number of messages");
    Py_ssize_t n = nargs ? PyNumber_AsSsize_t(args[0], PyExc_OverflowError) : 1;
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (!SHMQ_END_READY(self))
        return shmq_end_refuse(self);
    if (n < 1)
        return PyErr_Format(PyExc_ValueError, "peek at least one message, not %zd", n);
    return n == 1 ? peek_one(self) : peek_many(self, n);
}

static PyObject *channel_release(shmq_end *self, PyObject *arg)
{
    int64_t n = shmq_end_count(self, arg, "release");
    if (n < 0 || (self->view && !shmq_end_take_back(self)))
        return NULL;
    if (n)
        release(self, self->spans[n - 1], (uint64_t)n);
    Py_RETURN_NONE;
}

static PyObject *get_max_message(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(shmq_channel_limit(self->consumer.mask));
}

static void channel_consumer_dealloc(shmq_end *self)
{
    PyMem_Free(self->spans);
    self->spans = NULL;
    shmq_end_dealloc(self);
}

static const shmq_end_kind consumer_kind = {
    .noun = "channel", .unit = "messages", .damage = "cursor or message header", .role = "consumer",
    .peer = "producer", .lent = "peeked", .give_back = "release", .find = shmq_channel_end_find,
    .bind = shmq_channel_end_bind, .ready = shmq_ring_end_ready, .stats = shmq_channel_end_stats,
};

static PyObject *channel_consumer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return shmq_end_new(type, args, kwargs, &consumer_kind);
}

static PyMethodDef methods[] = {
    {"try_pop", (PyCFunction)channel_try_pop, METH_NOARGS,
     "try_pop() -> bytes | None\n\nTake the oldest message out; None when the channel is empty."},
    {"pop", (PyCFunction)(void (*)(void))channel_pop, METH_FASTCALL | METH_KEYWORDS,
     "pop(timeout=None) -> bytes\n\nTake the oldest message out, waiting up to timeout seconds for one (None: for "
     "ever). Raises queue.Empty on timeout, PeerDied when the channel is empty and the producer is dead."},
    {"pop_many", (PyCFunction)channel_pop_many, METH_O,
     "pop_many(max) -> list[bytes]\n\nTake up to max messages out, those that are there."},
    {"pop_into", (PyCFunction)(void (*)(void))channel_pop_into, METH_FASTCALL | METH_KEYWORDS,
     "pop_into(buffer, timeout=None) -> int\n\nAs pop, but copy the message into a writable C-contiguous buffer or "
     "array; its length in bytes. ValueError when the buffer is too short; the message stays then."},
    {"peek", (PyCFunction)(void (*)(void))channel_peek, METH_FASTCALL,
     "peek(n=1) -> memoryview | None | list[memoryview]\n\nRead-only views of the oldest messages, without copying: "
     "for n = 1 one view, None when the channel is empty; else a list of up to n. Until release no other call is "
     "allowed."},
    {"release", (PyCFunction)channel_release, METH_O,
     "release(n)\n\nTake the views back and the first n peeked messages out of the channel; 0 leaves them all. "
     "BufferError while a slice or an array over a view lives."},
    SHMQ_APOP_METHOD,
    SHMQ_END_METHODS,
};

static PyGetSetDef getset[] = {
    {"capacity", (getter)shmq_end_get_capacity, NULL, "Bytes, those of the messages' headers included.", NULL},
    {"max_message", (getter)get_max_message, NULL, "Bytes of the longest message: half the capacity.", NULL},
    SHMQ_END_GETSET,
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The consuming end of a channel, made by Channel.consumer(). Not for two threads at once."},
    {Py_tp_new, channel_consumer_new},
    {Py_tp_dealloc, channel_consumer_dealloc},
    {Py_tp_traverse, shmq_end_traverse},
    {Py_tp_clear, shmq_end_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec shmq_channel_consumer_spec = {
    .name = "shmq._native.ChannelConsumer",
    .basicsize = sizeof(shmq_end),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

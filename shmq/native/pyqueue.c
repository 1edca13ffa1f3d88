/* pyqueue.c - the type QueueCore: queue.h for Python, messages in and out as bytes.
 *
 * Promise: any number of threads of any number of processes may call at once. A mutex of the queue is held only while
 * no Python code can run, and never while signals are looked at. The GIL is given up while waiting and for the file.
 * close() lets calls that are under way end with ValueError; the memory stays mapped until the last has.
 */
#include "shmq/native/module.h"

#include "shmq/native/queue.h"

#include <sys/stat.h>

#define HELD_LOOKS 32      /* how often a call looks before it gives the GIL up, as in end.c */
#define MAX_PARTS 1024     /* pieces of one message */
#define GRACE_NS 20000000  /* a call that must not wait gives a mutex holder that is at work this long */

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    shmq_queue_handle handle;
    int fd; /* a duplicate, for spilled messages */
    uint64_t token;
    uint32_t generation;
    uint32_t users; /* calls under way */
    bool closing;
    shmq_wait_policy wait;
    int64_t checked_ns;
    shmq_state *state;
} Core;

/* One message on its way in. */
typedef struct {
    Py_buffer parts[MAX_PARTS];
    int n;
    uint64_t length;
    uint32_t kind;
} Message;

/* ---- life cycle ---- */

static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "at", "fd", "spins", "yields", NULL};
    PyObject *memory;
    Py_ssize_t at;
    int fd;
    unsigned spins, yields;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OniII:QueueCore", names, &memory, &at, &fd, &spins, &yields))
        return NULL;
    Core *self = (Core *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->state = PyType_GetModuleState(type);
    self->wait = (shmq_wait_policy){SHMQ_WAIT_ADAPTIVE, spins, yields};
    self->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (self->fd < 0) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    uint64_t size = (uint64_t)self->memory.len;
    if (at < 0 || (uint64_t)at > size ||
        shmq_queue_bind(&self->handle, (char *)self->memory.buf + at, size - (uint64_t)at, size) != SHMQ_OK) {
        PyErr_SetString(self->state->corrupt, "no valid queue header at this place");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void core_drop(Core *self)
{
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
    self->handle.queue = NULL;
    PyBuffer_Release(&self->memory);
}

static void core_dealloc(Core *self)
{
    PyTypeObject *type = Py_TYPE(self);
    core_drop(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Around every call that may give the GIL up. False: closed, error set. */
static bool core_enter(Core *self)
{
    if (self->generation != shmq_fork_generation) { /* in a forked child the parent's threads are not */
        self->generation = shmq_fork_generation;
        self->token = shmq_self_token();
        self->users = 0;
    }
    if (self->closing || !self->handle.queue) {
        PyErr_SetString(PyExc_ValueError, "the queue is closed");
        return false;
    }
    self->users++;
    return true;
}

static void core_leave(Core *self)
{
    if (--self->users == 0 && self->closing)
        core_drop(self);
}

static PyObject *core_close(Core *self, PyObject *Py_UNUSED(unused))
{
    self->closing = true;
    if (self->generation != shmq_fork_generation || self->users == 0)
        core_drop(self);
    Py_RETURN_NONE;
}

/* ---- the mutexes ---- */

/* Give the pages of a range of the spill area back; that they cannot be is no error, they go with the segment. */
static void punch(const Core *self, uint64_t from, uint64_t to)
{
    if (to > from)
        (void)!fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(self->handle.spill_at + from),
                         (off_t)(to - from));
}

/* After a holder died: its published work is finished, its unfinished message's pages are given back. */
static void mend(const Core *self, shmq_queue_side *side)
{
    shmq_queue_mend(side);
    uint64_t spill = shmq_queue_load(&side->spill);
    if (side == &self->handle.queue->get)
        punch(self, 0, spill);
    else
        punch(self, spill, UINT64_C(1) << 62);
}

/* SHMQ_OK with the side's mutex held, or SHMQ_TIMEOUT after at most wait_ns (0: a try). */
static int take_once(Core *self, shmq_queue_side *side, int64_t wait_ns)
{
    shmq_lock_stats stats = {.checked_ns = self->checked_ns};
    int rc;
    if (wait_ns == 0) {
        rc = shmq_mutex_acquire(&side->lock, self->token, 0, &stats);
    } else {
        Py_BEGIN_ALLOW_THREADS
        rc = shmq_mutex_acquire(&side->lock, self->token, wait_ns, &stats);
        Py_END_ALLOW_THREADS
    }
    self->checked_ns = stats.checked_ns;
    if (rc == SHMQ_OWNER_DIED) {
        mend(self, side);
        rc = SHMQ_OK;
    }
    return rc;
}

static int64_t slice_until(int64_t deadline)
{
    int64_t left = deadline - shmq_now_ns();
    return left < 0 ? 0 : left < SHMQ_SLICE_NS ? left : SHMQ_SLICE_NS;
}

typedef struct {
    Core *core;
    uint64_t length;
    bool put;
} Wish;

/* Whether the wish could be granted, judged from outside the mutex or within. Corruption counts: it is reported later. */
static bool possible(void *arg)
{
    const Wish *wish = arg;
    bool spilled;
    return wish->put ? shmq_queue_fit_now(&wish->core->handle, wish->length, &spilled) != 0
                     : shmq_queue_has_message(&wish->core->handle);
}

/* Get the side's mutex: SHMQ_OK, SHMQ_TIMEOUT, or 1 with an exception set. Who has no time left is not sent away for
 * a holder that is at work, only for one that waits itself. */
static int take(Core *self, shmq_queue_side *side, Wish *wish, int64_t deadline)
{
    int64_t grace = 0;
    int rc = take_once(self, side, 0);
    while (rc == SHMQ_TIMEOUT) {
        int64_t now = shmq_now_ns();
        if (now >= deadline) {
            if (!possible(wish) || (grace && now >= grace))
                return SHMQ_TIMEOUT;
            if (!grace)
                grace = now + GRACE_NS;
        }
        rc = take_once(self, side, slice_until(deadline > grace ? deadline : grace));
        if (rc == SHMQ_OK)
            break;
        if (PyErr_CheckSignals() < 0)
            return 1;
        if (self->closing) {
            PyErr_SetString(PyExc_ValueError, "the queue was closed");
            return 1;
        }
    }
    return rc;
}

/* Wait, with the mutex held, until the wish can be granted; true when it can. One slice at most. */
static bool linger(Core *self, shmq_cell *cell, Wish *wish, int64_t deadline)
{
    for (int i = 0; i < HELD_LOOKS; i++) {
        if (possible(wish))
            return true;
        shmq_relax();
    }
    int64_t stop = shmq_now_ns() + SHMQ_SLICE_NS;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = shmq_cell_wait(cell, self->wait, deadline < stop ? deadline : stop, SHMQ_SLICE_NS, possible, wish);
    Py_END_ALLOW_THREADS
    return rc == SHMQ_OK;
}

static int64_t deadline_after(int64_t timeout_ns)
{
    int64_t now = shmq_now_ns();
    return timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
}

/* Raise what an error of a step means; always NULL. */
static PyObject *explain(Core *self, int rc)
{
    if (rc == SHMQ_CORRUPT) {
        PyErr_SetString(self->state->corrupt, "the queue holds an impossible cursor or record, nothing was transferred");
    } else if (rc == -ENOMEM) {
        PyErr_NoMemory();
    } else if (rc == -ENOSPC) {
        PyObject *reason = Py_BuildValue("(is)", ENOSPC, "not enough shared memory for a message of this size: get some "
                                         "messages first, remove what `shmq ls` shows, or enlarge /dev/shm (docker: "
                                         "--shm-size)");
        if (reason)
            PyErr_SetObject(PyExc_OSError, reason);
        Py_XDECREF(reason);
    } else {
        errno = -rc;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return NULL;
}

/* ---- put ---- */

static int write_all(int fd, const void *from, uint64_t n, uint64_t at)
{
    while (n) {
        ssize_t done = pwrite(fd, from, n, (off_t)at);
        if (done < 0 && errno != EINTR)
            return -errno;
        if (done > 0)
            from = (const char *)from + done, n -= (uint64_t)done, at += (uint64_t)done;
    }
    return SHMQ_OK;
}

static int put_spilled(Core *self, const Message *message, shmq_queue_record *record)
{
    record->kind |= SHMQ_QUEUE_SPILLED;
    record->at = shmq_queue_load(&self->handle.queue->put.spill);
    uint64_t at = self->handle.spill_at + record->at;
    int rc = SHMQ_OK;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; rc == SHMQ_OK && i < message->n; i++) {
        rc = write_all(self->fd, message->parts[i].buf, (uint64_t)message->parts[i].len, at);
        at += (uint64_t)message->parts[i].len;
    }
    if (rc != SHMQ_OK)
        punch(self, record->at, record->at + shmq_queue_pages_of(message->length));
    Py_END_ALLOW_THREADS
    return rc;
}

/* Under the mutex: SHMQ_OK, SHMQ_FULL, or another error. */
static int put_now(Core *self, const Message *message)
{
    bool spilled = false;
    int64_t lines = shmq_queue_plan(&self->handle, message->length, &spilled);
    if (lines <= 0)
        return lines == 0 ? SHMQ_FULL : SHMQ_CORRUPT;
    shmq_queue_record record = {.kind = message->kind, .length = message->length};
    if (spilled) {
        int rc = put_spilled(self, message, &record);
        if (rc != SHMQ_OK)
            return rc;
    } else {
        uint64_t at = shmq_queue_load(&self->handle.queue->put.cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD;
        for (int i = 0; i < message->n; at += (uint64_t)message->parts[i].len, i++)
            shmq_queue_copy_in(&self->handle, at, message->parts[i].buf, (uint64_t)message->parts[i].len);
    }
    shmq_queue_put_done(&self->handle, &record, (uint64_t)lines);
    return SHMQ_OK;
}

static PyObject *put_message(Core *self, const Message *message, int64_t timeout_ns)
{
    shmq_queue *q = self->handle.queue;
    Wish wish = {self, message->length, true};
    int64_t deadline = timeout_ns ? deadline_after(timeout_ns) : 0;
    for (;;) {
        int rc = take(self, &q->put, &wish, deadline);
        if (rc == 1)
            return NULL;
        if (rc == SHMQ_OK) {
            rc = put_now(self, message);
            if (rc == SHMQ_FULL && timeout_ns && linger(self, &q->producer_cell, &wish, deadline))
                rc = put_now(self, message);
            if (rc == SHMQ_FULL)
                shmq_queue_refuse(&q->put);
            shmq_mutex_release(&q->put.lock);
        }
        if (rc == SHMQ_OK) {
            shmq_cell_wake(&q->consumer_cell, -1);
            Py_RETURN_NONE;
        }
        if (rc != SHMQ_FULL && rc != SHMQ_TIMEOUT)
            return explain(self, rc);
        if (shmq_now_ns() >= deadline) {
            PyErr_SetNone(self->state->full);
            return NULL;
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

static bool add_part(Message *message, PyObject *part)
{
    if (message->n == MAX_PARTS) {
        PyErr_Format(PyExc_ValueError, "a message has at most %d parts", MAX_PARTS);
        return false;
    }
    if (PyObject_GetBuffer(part, &message->parts[message->n], PyBUF_SIMPLE) < 0)
        return false;
    message->length += (uint64_t)message->parts[message->n++].len;
    return true;
}

static void drop_parts(Message *message)
{
    while (message->n)
        PyBuffer_Release(&message->parts[--message->n]);
}

static PyObject *core_put(Core *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("put", args, nargs, kwnames, 1, &timeout_ns) || !core_enter(self))
        return NULL;
    Message message;
    message.n = 0;
    message.length = 0;
    bool whole = true;
    if (PyTuple_CheckExact(args[0])) {
        message.kind = SHMQ_QUEUE_PARTS;
        for (Py_ssize_t i = 0; whole && i < PyTuple_GET_SIZE(args[0]); i++)
            whole = add_part(&message, PyTuple_GET_ITEM(args[0], i));
    } else {
        message.kind = SHMQ_QUEUE_PLAIN;
        whole = add_part(&message, args[0]);
    }
    PyObject *result = whole ? put_message(self, &message, timeout_ns) : NULL;
    drop_parts(&message);
    core_leave(self);
    return result;
}

/* ---- get ---- */

static int read_all(int fd, void *to, uint64_t n, uint64_t at)
{
    while (n) {
        ssize_t done = pread(fd, to, n, (off_t)at);
        if (done == 0)
            return SHMQ_CORRUPT; /* the file ends before the message does */
        if (done < 0 && errno != EINTR)
            return -errno;
        if (done > 0)
            to = (char *)to + done, n -= (uint64_t)done, at += (uint64_t)done;
    }
    return SHMQ_OK;
}

/* A spilled message lies behind the mapping and within the file. */
static bool spill_valid(const Core *self, const shmq_queue_record *record)
{
    struct stat status;
    return fstat(self->fd, &status) == 0 && record->at <= (uint64_t)status.st_size &&
           record->length <= (uint64_t)status.st_size - record->at;
}

/* Under the mutex: the message as bytes, or as a bytearray if it has parts; NULL with *rc set. */
static PyObject *copy_message(Core *self, const shmq_queue_record *record, int *rc)
{
    bool spilled = record->kind & SHMQ_QUEUE_SPILLED;
    *rc = SHMQ_CORRUPT;
    if (spilled && !spill_valid(self, record))
        return NULL;
    /* neither is tracked by the garbage collector, so no foreign code runs here */
    bool parts = record->kind & SHMQ_QUEUE_PARTS;
    Py_ssize_t length = (Py_ssize_t)record->length;
    PyObject *message = parts ? PyByteArray_FromStringAndSize(NULL, length) : PyBytes_FromStringAndSize(NULL, length);
    *rc = message ? SHMQ_OK : -ENOMEM;
    if (!message)
        return NULL;
    char *to = parts ? PyByteArray_AS_STRING(message) : PyBytes_AS_STRING(message);
    if (!spilled) {
        uint64_t at = shmq_queue_load(&self->handle.queue->get.cursor) * SHMQ_QUEUE_LINE + SHMQ_QUEUE_HEAD;
        shmq_queue_copy_out(&self->handle, at, to, record->length);
        return message;
    }
    Py_BEGIN_ALLOW_THREADS
    *rc = read_all(self->fd, to, record->length, self->handle.spill_at + record->at);
    Py_END_ALLOW_THREADS
    if (*rc != SHMQ_OK)
        Py_CLEAR(message);
    return message;
}

/* Under the mutex: the oldest message, or NULL with *rc SHMQ_EMPTY or another error. */
static PyObject *get_now(Core *self, int *rc)
{
    shmq_queue_record record;
    uint64_t lines;
    *rc = shmq_queue_look(&self->handle, &record, &lines);
    PyObject *message = *rc == SHMQ_OK ? copy_message(self, &record, rc) : NULL;
    if (message) {
        shmq_queue_get_done(&self->handle, &record, lines);
        if (record.kind & SHMQ_QUEUE_SPILLED)
            punch(self, record.at, record.at + shmq_queue_pages_of(record.length));
    }
    return message;
}

static PyObject *get_message(Core *self, int64_t timeout_ns)
{
    shmq_queue *q = self->handle.queue;
    Wish wish = {self, 0, false};
    int64_t deadline = timeout_ns ? deadline_after(timeout_ns) : 0;
    for (;;) {
        PyObject *message = NULL;
        int rc = take(self, &q->get, &wish, deadline);
        if (rc == 1)
            return NULL;
        if (rc == SHMQ_OK) {
            message = get_now(self, &rc);
            if (rc == SHMQ_EMPTY && timeout_ns && linger(self, &q->consumer_cell, &wish, deadline))
                message = get_now(self, &rc);
            if (rc == SHMQ_EMPTY)
                shmq_queue_refuse(&q->get);
            shmq_mutex_release(&q->get.lock);
        }
        if (message) {
            shmq_cell_wake(&q->producer_cell, -1);
            return message;
        }
        if (rc != SHMQ_EMPTY && rc != SHMQ_TIMEOUT) {
            PyErr_Clear(); /* of a MemoryError that said less */
            return explain(self, rc);
        }
        if (shmq_now_ns() >= deadline) {
            PyErr_SetNone(self->state->empty);
            return NULL;
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (self->closing) {
            PyErr_SetString(PyExc_ValueError, "the queue was closed");
            return NULL;
        }
    }
}

static PyObject *core_get(Core *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument("get", args, nargs, kwnames, 0, &timeout_ns) || !core_enter(self))
        return NULL;
    PyObject *message = get_message(self, timeout_ns);
    core_leave(self);
    return message;
}

/* ---- the rest ---- */

static PyObject *core_size(Core *self, PyObject *Py_UNUSED(unused))
{
    if (!core_enter(self))
        return NULL;
    PyObject *size = PyLong_FromUnsignedLongLong(shmq_queue_size(&self->handle));
    core_leave(self);
    return size;
}

static PyObject *core_stats(Core *self, PyObject *Py_UNUSED(unused))
{
    if (!core_enter(self))
        return NULL;
    const shmq_queue *q = self->handle.queue;
#define NUMBER(x) (unsigned long long)(x)
    unsigned long long head = shmq_queue_load(&q->get.cursor), tail = shmq_queue_load(&q->put.cursor); /* in this order */
    PyObject *result = Py_BuildValue(
        "{sKsKsKsKsKsKsKsKsKsKsKsK}", "capacity", NUMBER(self->handle.lines * SHMQ_QUEUE_LINE), "maxsize",
        NUMBER(self->handle.maxsize), "puts", NUMBER(shmq_queue_load(&q->put.items)), "gets",
        NUMBER(shmq_queue_load(&q->get.items)), "used", NUMBER((tail - head) * SHMQ_QUEUE_LINE), "spilled",
        NUMBER(shmq_queue_load(&q->put.spill)), "full_hits", NUMBER(shmq_queue_load(&q->put.refused)), "empty_hits",
        NUMBER(shmq_queue_load(&q->get.refused)), "producer_parks", NUMBER(shmq_queue_load(&q->producer_cell.parks)),
        "producer_wakes", NUMBER(shmq_queue_load(&q->producer_cell.wakes)), "consumer_parks",
        NUMBER(shmq_queue_load(&q->consumer_cell.parks)), "consumer_wakes",
        NUMBER(shmq_queue_load(&q->consumer_cell.wakes)));
    core_leave(self);
    return result;
}

static PyObject *core_maxsize(Core *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong(self->handle.maxsize);
}

static PyObject *core_closed(Core *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->closing || !self->handle.queue);
}

PyObject *shmq_py_queue_bytes(PyObject *Py_UNUSED(module), PyObject *arg)
{
    unsigned long long lines = PyLong_AsUnsignedLongLong(arg);
    if (lines == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLongLong(shmq_queue_bytes(lines));
}

PyObject *shmq_py_queue_init(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    unsigned long long lines, maxsize;
    if (!PyArg_ParseTuple(args, "w*nKK:queue_init", &memory, &at, &lines, &maxsize))
        return NULL;
    uint64_t need = shmq_queue_bytes(lines);
    int rc = SHMQ_INVALID;
    if (at >= 0 && need && (uint64_t)memory.len >= need + (uint64_t)at)
        rc = shmq_queue_init((char *)memory.buf + at, lines, maxsize);
    PyBuffer_Release(&memory);
    if (rc != SHMQ_OK)
        return PyErr_Format(PyExc_ValueError, "a queue of this geometry does not fit here");
    Py_RETURN_NONE;
}

#define TIMED(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

static PyMethodDef core_methods[] = {
    {"put", TIMED(core_put),
     "put(message, timeout=None)\n\nPut a bytes-like object, or a tuple of them as one message of parts, waiting up to "
     "timeout seconds for room (None: for ever). queue.Full on timeout, OSError when /dev/shm is full."},
    {"get", TIMED(core_get),
     "get(timeout=None) -> bytes | bytearray\n\nTake the oldest message out: bytes, or a bytearray with the parts one "
     "after another. queue.Empty after timeout seconds (None: wait for ever)."},
    {"size", (PyCFunction)core_size, METH_NOARGS, "size() -> int\n\nMessages in the queue."},
    {"stats", (PyCFunction)core_stats, METH_NOARGS,
     "stats() -> dict[str, int]\n\nCounters since the queue was made, read without stopping it."},
    {"close", (PyCFunction)core_close, METH_NOARGS,
     "close()\n\nLet go of the memory, as soon as the calls of other threads have ended with ValueError."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef core_getset[] = {
    {"maxsize", (getter)core_maxsize, NULL, "Most messages at a time, 0: no bound.", NULL},
    {"closed", (getter)core_closed, NULL, "True once closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "QueueCore(memory, at, fd, spins, yields)\n\nA process's handle of a queue in shared memory."},
    {Py_tp_new, core_new},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_methods, core_methods},
    {Py_tp_getset, core_getset},
    {0, NULL},
};

PyType_Spec shmq_queue_spec = {
    .name = "shmq._native.QueueCore",
    .basicsize = sizeof(Core),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = core_slots,
};

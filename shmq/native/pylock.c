/* pylock.c - the types SpinLock, Mutex, RwLock and PthreadRwLock: lock.h, mutex.h and prwlock.h for Python.
 *
 * Promise: a handle belongs to one thread at a time and one process; a forked child that uses it takes a
 * slot of its own and holds nothing. The GIL is given up while waiting, signals are looked at every 50 ms.
 * A death is reported as OwnerDied with the lock held; abandon() releases a lock and leaves the report for
 * the next holder. A handle that is dropped while it writes counts as a death.
 */
#include "shmq/native/module.h"

#include "shmq/native/mutex.h"
#include "shmq/native/prwlock.h"

typedef enum { HELD_NOT, HELD_READ, HELD_WRITE } held_as;

typedef struct lock_kind lock_kind;

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    const lock_kind *kind;
    void *at; /* the lock, NULL once closed */
    union {
        shmq_rwholder rw;
        shmq_prwholder prw;
        shmq_lock_stats exclusive; /* spin lock and mutex need no place of their own */
    };
    uint64_t self_token;
    uint32_t generation; /* fork generation that `held` and the slot belong to */
    bool futex, joined, busy;
    held_as held;
    shmq_state *state;
} Lock;

/* What one kind of lock does; one static table each below. */
struct lock_kind {
    Py_ssize_t size;
    size_t align;
    bool shared; /* knows readers */
    int (*join)(Lock *);
    void (*leave)(Lock *);
    int (*acquire)(Lock *, held_as, int64_t timeout_ns);
    void (*release)(Lock *, held_as);
    void (*abandon)(Lock *, held_as);
    shmq_lock_stats *(*stats)(Lock *);
};

/* ---- the kinds ---- */

static int exclusive_join(Lock *Py_UNUSED(self))
{
    return SHMQ_OK;
}

static void exclusive_leave(Lock *Py_UNUSED(self))
{
}

static shmq_lock_stats *exclusive_stats(Lock *self)
{
    return &self->exclusive;
}

static int spin_acquire(Lock *self, held_as Py_UNUSED(how), int64_t timeout_ns)
{
    return shmq_spin_acquire(self->at, self->self_token, timeout_ns, &self->exclusive);
}

static void spin_release(Lock *self, held_as Py_UNUSED(how))
{
    shmq_spin_release(self->at);
}

static void spin_abandon(Lock *self, held_as Py_UNUSED(how))
{
    shmq_spin_abandon(self->at);
}

static const lock_kind spin_kind = {
    sizeof(shmq_spinlock), alignof(shmq_spinlock), false, exclusive_join, exclusive_leave,
    spin_acquire, spin_release, spin_abandon, exclusive_stats,
};

static int mutex_acquire(Lock *self, held_as Py_UNUSED(how), int64_t timeout_ns)
{
    return shmq_mutex_acquire(self->at, self->self_token, timeout_ns, &self->exclusive);
}

static void mutex_release(Lock *self, held_as Py_UNUSED(how))
{
    shmq_mutex_release(self->at);
}

static void mutex_abandon(Lock *self, held_as Py_UNUSED(how))
{
    shmq_mutex_abandon(self->at);
}

static const lock_kind mutex_kind = {
    sizeof(shmq_mutex), alignof(shmq_mutex), false, exclusive_join, exclusive_leave,
    mutex_acquire, mutex_release, mutex_abandon, exclusive_stats,
};

static int rw_join(Lock *self)
{
    return shmq_rw_join(&self->rw, self->at, self->futex);
}

static void rw_leave(Lock *self)
{
    shmq_rw_leave(&self->rw);
}

static int rw_acquire(Lock *self, held_as how, int64_t timeout_ns)
{
    return how == HELD_READ ? shmq_rw_read_acquire(&self->rw, timeout_ns) : shmq_rw_write_acquire(&self->rw, timeout_ns);
}

static void rw_release(Lock *self, held_as how)
{
    if (how == HELD_READ)
        shmq_rw_read_release(&self->rw);
    else
        shmq_rw_write_release(&self->rw);
}

static void rw_abandon(Lock *self, held_as how)
{
    shmq_rw_mark_died(&self->rw);
    rw_release(self, how);
}

static shmq_lock_stats *rw_stats(Lock *self)
{
    return &self->rw.stats;
}

static const lock_kind rw_kind = {
    sizeof(shmq_rwlock), alignof(shmq_rwlock), true, rw_join, rw_leave, rw_acquire, rw_release, rw_abandon, rw_stats,
};

static int prw_join(Lock *self)
{
    return shmq_prw_join(&self->prw, self->at);
}

static void prw_leave(Lock *self)
{
    shmq_prw_leave(&self->prw);
}

static int prw_acquire(Lock *self, held_as how, int64_t timeout_ns)
{
    return shmq_prw_acquire(&self->prw, how == HELD_WRITE, timeout_ns);
}

static void prw_release(Lock *self, held_as Py_UNUSED(how))
{
    shmq_prw_release(&self->prw);
}

static void prw_abandon(Lock *self, held_as Py_UNUSED(how))
{
    shmq_prw_mark_died(&self->prw);
    shmq_prw_release(&self->prw);
}

static shmq_lock_stats *prw_stats(Lock *self)
{
    return &self->prw.stats;
}

static const lock_kind prw_kind = {
    sizeof(shmq_prwlock), alignof(shmq_prwlock), true, prw_join, prw_leave, prw_acquire, prw_release, prw_abandon, prw_stats,
};

/* ---- life cycle ---- */

static int lock_join(Lock *self)
{
    if (self->joined && self->generation == shmq_fork_generation)
        return 0;
    self->held = HELD_NOT; /* what a parent holds, its child does not */
    self->joined = self->busy = false;
    self->self_token = shmq_self_token();
    int rc = self->kind->join(self);
    if (rc == SHMQ_TAKEN)
        PyErr_Format(self->state->role_taken, "all %d slots of the lock are in use", SHMQ_RW_SLOTS);
    else if (rc != SHMQ_OK)
        PyErr_SetString(PyExc_OSError, "the C library cannot make a lock between processes");
    if (rc != SHMQ_OK)
        return -1;
    self->generation = shmq_fork_generation;
    self->joined = true;
    return 0;
}

static bool lock_usable(Lock *self)
{
    if (!self->at) {
        PyErr_SetString(PyExc_ValueError, "the lock is closed");
        return false;
    }
    if (lock_join(self) < 0)
        return false;
    if (self->busy)
        PyErr_SetString(PyExc_RuntimeError, "another thread waits with this handle: give each thread its own");
    return !self->busy;
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const lock_kind *kind)
{
    static char *names[] = {"memory", "at", "futex", NULL};
    PyObject *memory;
    Py_ssize_t at;
    int futex = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "On|p", names, &memory, &at, &futex))
        return NULL;
    Lock *self = (Lock *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->state = PyType_GetModuleState(type);
    self->kind = kind;
    self->futex = futex;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0)
        goto fail;
    char *place = (char *)self->memory.buf + at;
    if (at < 0 || at > self->memory.len - kind->size || (uintptr_t)place % kind->align) {
        PyErr_Format(PyExc_ValueError, "a lock needs %zd bytes, aligned to %zu", kind->size, kind->align);
        goto fail;
    }
    self->at = place;
    if (lock_join(self) < 0)
        goto fail;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static PyObject *spinlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, &spin_kind);
}

static PyObject *mutex_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, &mutex_kind);
}

static PyObject *rwlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, &rw_kind);
}

static PyObject *prwlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, &prw_kind);
}

static void lock_let_go(Lock *self)
{
    self->kind->release(self, self->held);
    self->held = HELD_NOT;
}

/* Release, and let the next holder get OwnerDied. */
static void lock_abandon(Lock *self)
{
    self->kind->abandon(self, self->held);
    self->held = HELD_NOT;
}

static void lock_leave(Lock *self)
{
    if (self->joined && self->generation == shmq_fork_generation) {
        if (self->held == HELD_WRITE)
            lock_abandon(self);
        else if (self->held)
            lock_let_go(self);
        self->kind->leave(self);
    }
    self->joined = false;
    self->at = NULL;
    PyBuffer_Release(&self->memory);
}

static void lock_dealloc(Lock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    lock_leave(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lock_close(Lock *self, PyObject *Py_UNUSED(unused))
{
    if (self->joined && self->generation == shmq_fork_generation && (self->held || self->busy))
        return PyErr_Format(PyExc_RuntimeError, "the lock is in use by this handle: release it first");
    lock_leave(self);
    Py_RETURN_NONE;
}

/* ---- acquire and release ---- */

/* SHMQ_OK, SHMQ_OWNER_DIED, SHMQ_GONE, SHMQ_TIMEOUT, or 1 with an exception set: in slices, as one acquire in the counters. */
static int acquire_in_slices(Lock *self, held_as how, int64_t timeout_ns)
{
    shmq_lock_stats *stats = self->kind->stats(self), before = *stats;
    int64_t now = shmq_now_ns(), deadline = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    int rc;
    do {
        int64_t left = deadline - shmq_now_ns();
        left = left < 0 ? 0 : left < SHMQ_SLICE_NS ? left : SHMQ_SLICE_NS;
        Py_BEGIN_ALLOW_THREADS
        rc = self->kind->acquire(self, how, left);
        Py_END_ALLOW_THREADS
        if (rc == SHMQ_TIMEOUT && PyErr_CheckSignals() < 0)
            rc = 1;
    } while (rc == SHMQ_TIMEOUT && shmq_now_ns() < deadline);
    stats->acquires = before.acquires;
    stats->contended = before.contended;
    return rc;
}

static PyObject *lock_acquire(Lock *self, held_as how, const char *name, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    int64_t timeout_ns;
    if (!shmq_timeout_argument(name, args, nargs, kwnames, 0, &timeout_ns) || !lock_usable(self))
        return NULL;
    if (self->held)
        return PyErr_Format(PyExc_RuntimeError, "this handle holds the lock already, and it is not recursive");
    int rc = self->kind->acquire(self, how, 0);
    if (rc == SHMQ_TIMEOUT && timeout_ns) {
        self->busy = true;
        rc = acquire_in_slices(self, how, timeout_ns);
        self->busy = false;
    }
    if (rc == SHMQ_OK || rc == SHMQ_OWNER_DIED)
        self->held = how;
    if (rc == SHMQ_OWNER_DIED)
        PyErr_SetString(self->state->owner_died, "a process died while it held this lock; the lock is held by the "
                        "caller now: repair what it protects, then release it");
    if (rc == SHMQ_GONE)
        PyErr_SetString(self->state->owner_died, "a process died while it held this lock or waited for it; a pthread lock "
                        "cannot be taken over: it is NOT held, and it is lost, make a new one");
    if (rc == 1 || rc == SHMQ_OWNER_DIED || rc == SHMQ_GONE)
        return NULL;
    return PyBool_FromLong(rc == SHMQ_OK);
}

static PyObject *lock_release(Lock *self, held_as how)
{
    if (!lock_usable(self))
        return NULL;
    if (self->held != how)
        return PyErr_Format(PyExc_RuntimeError, "this handle does not hold the lock%s",
                            !self->kind->shared ? "" : how == HELD_READ ? " for reading" : " for writing");
    lock_let_go(self);
    Py_RETURN_NONE;
}

static PyObject *acquire_read(Lock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return lock_acquire(self, HELD_READ, "acquire_read", args, nargs, kwnames);
}

static PyObject *acquire_write(Lock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return lock_acquire(self, HELD_WRITE, "acquire_write", args, nargs, kwnames);
}

static PyObject *acquire_exclusive(Lock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return lock_acquire(self, HELD_WRITE, "acquire", args, nargs, kwnames);
}

static PyObject *release_read(Lock *self, PyObject *Py_UNUSED(unused))
{
    return lock_release(self, HELD_READ);
}

static PyObject *release_write(Lock *self, PyObject *Py_UNUSED(unused))
{
    return lock_release(self, HELD_WRITE);
}

static PyObject *abandon(Lock *self, PyObject *Py_UNUSED(unused))
{
    if (!lock_usable(self))
        return NULL;
    if (!self->held)
        return PyErr_Format(PyExc_RuntimeError, "this handle does not hold the lock");
    lock_abandon(self);
    Py_RETURN_NONE;
}

static PyObject *stats(Lock *self, PyObject *Py_UNUSED(unused))
{
    const shmq_lock_stats *s = self->kind->stats(self);
    return Py_BuildValue("{sKsKsL}", "acquires", (unsigned long long)s->acquires, "contended",
                         (unsigned long long)s->contended, "wait_ns", (long long)s->wait_ns);
}

static PyObject *get_held(Lock *self, void *Py_UNUSED(unused))
{
    bool valid = self->joined && self->generation == shmq_fork_generation;
    return PyBool_FromLong(valid && self->held != HELD_NOT);
}

static PyObject *get_closed(Lock *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(!self->at);
}

#define ACQUIRE(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS
#define ACQUIRE_DOC                                                                                                    \
    "Wait up to timeout seconds (None: for ever); True when the lock is held, False on timeout. OwnerDied: held, "    \
    "but a process died while it wrote. RuntimeError when this handle holds the lock already."
#define COMMON_METHODS                                                                                                 \
    {"abandon", (PyCFunction)abandon, METH_NOARGS,                                                                     \
     "abandon()\n\nRelease without having repaired: the next holder gets OwnerDied."},                                           \
    {"stats", (PyCFunction)stats, METH_NOARGS,                                                                         \
     "stats() -> dict[str, int]\n\nThis handle's acquires, those that had to wait, and nanoseconds they waited."},     \
    {"close", (PyCFunction)lock_close, METH_NOARGS,                                                                    \
     "close()\n\nGive the handle's place in the lock back. RuntimeError while it holds the lock."},                    \
    {NULL, NULL, 0, NULL}

static PyMethodDef exclusive_methods[] = {
    {"acquire", ACQUIRE(acquire_exclusive), "acquire(timeout=None) -> bool\n\n" ACQUIRE_DOC},
    {"release", (PyCFunction)release_write, METH_NOARGS, "release()\n\nRuntimeError when this handle does not hold it."},
    COMMON_METHODS,
};

static PyMethodDef shared_methods[] = {
    {"acquire_read", ACQUIRE(acquire_read), "acquire_read(timeout=None) -> bool\n\n" ACQUIRE_DOC},
    {"acquire_write", ACQUIRE(acquire_write), "acquire_write(timeout=None) -> bool\n\n" ACQUIRE_DOC},
    {"release_read", (PyCFunction)release_read, METH_NOARGS,
     "release_read()\n\nRuntimeError when this handle does not hold the lock for reading."},
    {"release_write", (PyCFunction)release_write, METH_NOARGS,
     "release_write()\n\nRuntimeError when this handle does not hold the lock for writing."},
    COMMON_METHODS,
};

static PyGetSetDef lock_getset[] = {
    {"held", (getter)get_held, NULL, "True while this handle holds the lock.", NULL},
    {"closed", (getter)get_closed, NULL, "True once closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define TYPE(kind_, python_name, methods, doc)                                                                         \
    static PyType_Slot kind_##_slots[] = {                                                                              \
        {Py_tp_doc, doc},                                                                                              \
        {Py_tp_new, kind_##_new},                                                                                       \
        {Py_tp_dealloc, lock_dealloc},                                                                                 \
        {Py_tp_methods, methods},                                                                                      \
        {Py_tp_getset, lock_getset},                                                                                   \
        {0, NULL},                                                                                                     \
    };                                                                                                                 \
    PyType_Spec shmq_##kind_##_spec = {                                                                                 \
        .name = "shmq._native." python_name,                                                                           \
        .basicsize = sizeof(Lock),                                                                                     \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,                                                        \
        .slots = kind_##_slots,                                                                                         \
    };

TYPE(spinlock, "SpinLock", exclusive_methods, "A handle of a spin lock in shared memory.")
TYPE(mutex, "Mutex", exclusive_methods, "A handle of a mutex in shared memory.")
TYPE(rwlock, "RwLock", shared_methods, "A handle of a read-write lock in shared memory.")
TYPE(prwlock, "PthreadRwLock", shared_methods, "A handle of a pthread read-write lock in shared memory.")

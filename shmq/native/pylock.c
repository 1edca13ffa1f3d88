/* pylock.c - the types SpinLock and RwLock: lock.h for Python.
 *
 * Promise: a handle belongs to one thread at a time and one process; a forked child that uses it takes a
 * slot of its own and holds nothing. The GIL is given up while waiting, signals are looked at every 50 ms.
 * A death is reported as OwnerDied with the lock held; abandon() releases a lock and leaves the report for
 * the next holder. A handle that is dropped while it writes counts as a death.
 */
#include "shmq/native/module.h"

#include "shmq/native/lock.h"

typedef enum { HELD_NOT, HELD_READ, HELD_WRITE } held_as;

typedef struct {
    PyObject_HEAD
    Py_buffer memory;
    shmq_spinlock *spin; /* one of these two, NULL once closed */
    shmq_rwlock *rw;
    shmq_rwholder holder;
    shmq_lock_stats stats; /* of a spin lock */
    uint64_t self_token;
    uint32_t generation; /* fork generation that `held` and the slot belong to */
    bool futex, joined, busy;
    held_as held;
    shmq_state *state;
} Lock;

/* ---- life cycle ---- */

static int lock_join(Lock *self)
{
    if (self->joined && self->generation == shmq_fork_generation)
        return 0;
    self->held = HELD_NOT; /* what a parent holds, its child does not */
    self->joined = self->busy = false;
    self->self_token = shmq_self_token();
    if (self->rw && shmq_rw_join(&self->holder, self->rw, self->futex) != SHMQ_OK) {
        PyErr_Format(self->state->role_taken, "all %d slots of the lock are in use", SHMQ_RW_SLOTS);
        return -1;
    }
    self->generation = shmq_fork_generation;
    self->joined = true;
    return 0;
}

static bool lock_usable(Lock *self)
{
    if (!self->spin && !self->rw) {
        PyErr_SetString(PyExc_ValueError, "the lock is closed");
        return false;
    }
    if (lock_join(self) < 0)
        return false;
    if (self->busy)
        PyErr_SetString(PyExc_RuntimeError, "another thread waits with this handle: give each thread its own");
    return !self->busy;
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, bool rw)
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
    self->futex = futex;
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0)
        goto fail;
    Py_ssize_t size = rw ? sizeof(shmq_rwlock) : sizeof(shmq_spinlock);
    size_t align = rw ? alignof(shmq_rwlock) : alignof(shmq_spinlock);
    char *place = (char *)self->memory.buf + at;
    if (at < 0 || at > self->memory.len - size || (uintptr_t)place % align) {
        PyErr_Format(PyExc_ValueError, "a lock needs %zd bytes, aligned to %zu", size, align);
        goto fail;
    }
    if (rw)
        self->rw = (shmq_rwlock *)place;
    else
        self->spin = (shmq_spinlock *)place;
    if (lock_join(self) < 0)
        goto fail;
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static PyObject *spinlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, false);
}

static PyObject *rwlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return lock_new(type, args, kwargs, true);
}

static void lock_let_go(Lock *self)
{
    if (self->spin)
        shmq_spin_release(self->spin);
    else if (self->held == HELD_READ)
        shmq_rw_read_release(&self->holder);
    else
        shmq_rw_write_release(&self->holder);
    self->held = HELD_NOT;
}

/* Release, and let the next holder get OwnerDied. */
static void lock_abandon(Lock *self)
{
    if (self->spin) {
        shmq_spin_abandon(self->spin);
        self->held = HELD_NOT;
    } else {
        shmq_rw_mark_died(&self->holder);
        lock_let_go(self);
    }
}

static void lock_leave(Lock *self)
{
    if (self->joined && self->generation == shmq_fork_generation) {
        if (self->held == HELD_WRITE)
            lock_abandon(self);
        else if (self->held)
            lock_let_go(self);
        if (self->rw)
            shmq_rw_leave(&self->holder);
    }
    self->joined = false;
    self->spin = NULL;
    self->rw = NULL;
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

static shmq_lock_stats *lock_stats(Lock *self)
{
    return self->rw ? &self->holder.stats : &self->stats;
}

static int acquire_once(Lock *self, held_as how, int64_t timeout_ns)
{
    if (self->spin)
        return shmq_spin_acquire(self->spin, self->self_token, timeout_ns, &self->stats);
    return how == HELD_READ ? shmq_rw_read_acquire(&self->holder, timeout_ns)
                            : shmq_rw_write_acquire(&self->holder, timeout_ns);
}

/* SHMQ_OK, SHMQ_OWNER_DIED, SHMQ_TIMEOUT, or 1 with an exception set: in slices, as one acquire in the counters. */
static int acquire_in_slices(Lock *self, held_as how, int64_t timeout_ns)
{
    shmq_lock_stats *stats = lock_stats(self), before = *stats;
    int64_t now = shmq_now_ns(), deadline = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    int rc;
    do {
        int64_t left = deadline - shmq_now_ns();
        left = left < 0 ? 0 : left < SHMQ_SLICE_NS ? left : SHMQ_SLICE_NS;
        Py_BEGIN_ALLOW_THREADS
        rc = acquire_once(self, how, left);
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
    int rc = acquire_once(self, how, 0);
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
    if (rc == 1 || rc == SHMQ_OWNER_DIED)
        return NULL;
    return PyBool_FromLong(rc == SHMQ_OK);
}

static PyObject *lock_release(Lock *self, held_as how)
{
    if (!lock_usable(self))
        return NULL;
    if (self->held != how)
        return PyErr_Format(PyExc_RuntimeError, "this handle does not hold the lock%s",
                            self->spin ? "" : how == HELD_READ ? " for reading" : " for writing");
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

static PyObject *acquire_spin(Lock *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
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
    const shmq_lock_stats *s = lock_stats(self);
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
    return PyBool_FromLong(!self->spin && !self->rw);
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

static PyMethodDef spinlock_methods[] = {
    {"acquire", ACQUIRE(acquire_spin), "acquire(timeout=None) -> bool\n\n" ACQUIRE_DOC},
    {"release", (PyCFunction)release_write, METH_NOARGS, "release()\n\nRuntimeError when this handle does not hold it."},
    COMMON_METHODS,
};

static PyMethodDef rwlock_methods[] = {
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

static PyType_Slot spinlock_slots[] = {
    {Py_tp_doc, "A handle of a spin lock in shared memory."},
    {Py_tp_new, spinlock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, spinlock_methods},
    {Py_tp_getset, lock_getset},
    {0, NULL},
};

static PyType_Slot rwlock_slots[] = {
    {Py_tp_doc, "A handle of a read-write lock in shared memory."},
    {Py_tp_new, rwlock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, rwlock_methods},
    {Py_tp_getset, lock_getset},
    {0, NULL},
};

PyType_Spec shmq_spinlock_spec = {
    .name = "shmq._native.SpinLock",
    .basicsize = sizeof(Lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = spinlock_slots,
};

PyType_Spec shmq_rwlock_spec = {
    .name = "shmq._native.RwLock",
    .basicsize = sizeof(Lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = rwlock_slots,
};

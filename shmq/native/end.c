/* end.c - see end.h: roles, waiting, the eventfd, leases. */
#include "shmq/native/end.h"

#include <sys/eventfd.h>

/* How often a blocking call looks before it gives the GIL up: about a microsecond, less than a handover costs. */
#define HELD_LOOKS 32

/* Calls may go on unless the end is closed, busy, leased or another process's. */
static void update_pass(shmq_end *self)
{
    self->pass = self->shared && !self->busy && !self->view ? self->generation : 0;
}

void shmq_end_hold(shmq_end *self)
{
    self->busy = true;
    update_pass(self);
}

void shmq_end_unhold(shmq_end *self)
{
    self->busy = false;
    update_pass(self);
}

PyObject *shmq_end_refuse(shmq_end *self)
{
    const shmq_end_kind *kind = self->kind;
    if (!self->shared)
        PyErr_Format(PyExc_ValueError, "the %s is closed", kind->role);
    else if (self->generation != shmq_fork_generation)
        PyErr_Format(PyExc_RuntimeError, "this %s belongs to the parent process: take the role in the process that "
                     "uses it", kind->role);
    else if (self->busy)
        PyErr_Format(PyExc_RuntimeError, "another call of this %s is in progress", kind->role);
    else
        PyErr_Format(PyExc_BufferError, "a %s view is out: call %s first", kind->lent, kind->give_back);
    return NULL;
}

PyObject *shmq_end_corrupt(shmq_end *self)
{
    PyErr_Format(self->state->corrupt, "the %s's %s %s holds an impossible value, nothing was transferred",
                 self->kind->noun, self->kind->peer, self->kind->damage);
    return NULL;
}

/* ---- taking and giving back the role ---- */

static int duplicate(int fd)
{
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void drop_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int take_role(shmq_end *self)
{
    const shmq_end_kind *kind = self->kind;
    if (shmq_role_take(self->role) == SHMQ_OK)
        return 0;
    uint64_t holder = atomic_load_explicit(self->role, memory_order_relaxed);
    if (holder == shmq_self_token())
        PyErr_Format(self->state->role_taken, "this process has a %s for this %s already: close it first", kind->role,
                     kind->noun);
    else
        PyErr_Format(self->state->role_taken, "process %u is the %s of this %s and alive", (unsigned)(holder >> 32),
                     kind->role, kind->noun);
    return -1;
}

static int bind_end(shmq_end *self, Py_ssize_t at)
{
    const shmq_end_kind *kind = self->kind;
    uint64_t space = at < 0 || at > self->memory.len ? 0 : (uint64_t)(self->memory.len - at);
    if (!space || !kind->find(self, (char *)self->memory.buf + at, space)) {
        self->shared = NULL;
        PyErr_Format(self->state->corrupt, "no valid %s header at this place", kind->noun);
        return -1;
    }
    if (take_role(self) < 0) {
        self->shared = NULL;
        return -1;
    }
    if (kind->bind(self, space) != SHMQ_OK) {
        PyErr_Format(self->state->corrupt, "the %s's cursors hold impossible values", kind->noun);
        return -1;
    }
    shmq_cell_clear(self->cell); /* a dead predecessor may have left it parked */
    return 0;
}

PyObject *shmq_end_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, const shmq_end_kind *kind)
{
    static char *names[] = {"memory", "at", "wait", "spins", "yields", "own_eventfd", "peer_eventfd", NULL};
    PyObject *memory;
    Py_ssize_t at;
    int wait, own_efd = -1, peer_efd = -1;
    unsigned spins, yields;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OniII|ii", names, &memory, &at, &wait, &spins, &yields, &own_efd, &peer_efd))
        return NULL;
    if (wait < SHMQ_WAIT_SPIN || wait > SHMQ_WAIT_EVENTFD)
        return PyErr_Format(PyExc_ValueError, "unknown wait strategy %d", wait);
    shmq_end *self = (shmq_end *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->state = PyType_GetModuleState(type);
    self->kind = kind;
    self->need = 1;
    self->generation = shmq_fork_generation;
    self->wait = (shmq_wait_policy){(shmq_wait_kind)wait, spins, yields};
    self->own_efd = duplicate(own_efd);
    self->peer_efd = duplicate(peer_efd);
    if ((own_efd >= 0 && self->own_efd < 0) || (peer_efd >= 0 && self->peer_efd < 0)) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0 || bind_end(self, at) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (self->own_efd >= 0)
        (void)!eventfd_write(self->own_efd, 1); /* the first look is worth while: then it is armed */
    update_pass(self);
    return (PyObject *)self;
}

static void give_up(shmq_end *self)
{
    if (self->shared && self->generation == shmq_fork_generation) {
        shmq_cell_clear(self->cell);
        shmq_role_drop(self->role);
    }
    self->shared = NULL;
    self->pass = 0;
    drop_fd(&self->own_efd);
    drop_fd(&self->peer_efd);
    PyBuffer_Release(&self->memory); /* does nothing when there is none */
}

PyObject *shmq_end_close(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (self->shared && self->busy)
        return shmq_end_refuse(self);
    if (self->view && !shmq_end_take_back(self))
        return NULL;
    give_up(self);
    Py_RETURN_NONE;
}

PyObject *shmq_end_enter(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!self->shared)
        return shmq_end_refuse(self);
    return Py_NewRef(self);
}

PyObject *shmq_end_exit(shmq_end *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return shmq_end_close(self, NULL);
}

int shmq_end_traverse(shmq_end *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->view);
    Py_VISIT(self->lease);
    return 0;
}

int shmq_end_clear(shmq_end *self)
{
    Py_CLEAR(self->view);
    Py_CLEAR(self->lease);
    return 0;
}

void shmq_end_dealloc(shmq_end *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    shmq_end_clear(self);
    give_up(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- waiting ---- */

/* The other role's holder is dead: 1, with PeerDied set. It may have published just before: then 0. */
static int peer_died(shmq_end *self)
{
    uint64_t token = atomic_load_explicit(self->peer_role, memory_order_acquire);
    if (!token || shmq_token_alive(token) || self->kind->ready(self))
        return 0;
    PyErr_Format(self->state->peer_died, "the %s's %s, process %u, died", self->kind->noun, self->kind->peer,
                 (unsigned)(token >> 32));
    return 1;
}

static int wait_in_slices(shmq_end *self, int64_t deadline)
{
    shmq_wait_policy policy = self->wait;
    for (;;) {
        int rc;
        int64_t began = shmq_now_ns();
        Py_BEGIN_ALLOW_THREADS
        rc = shmq_cell_wait(self->cell, policy, deadline, SHMQ_SLICE_NS, self->kind->ready, self);
        Py_END_ALLOW_THREADS
        if (rc == SHMQ_OK)
            return 1;
        if (PyErr_CheckSignals() < 0 || peer_died(self))
            return -1;
        if (rc == SHMQ_TIMEOUT)
            return self->kind->ready(self);
        if (shmq_now_ns() - began >= SHMQ_SLICE_NS)
            policy = shmq_wait_long(policy);
    }
}

int shmq_end_wait(shmq_end *self, int64_t timeout_ns)
{
    if (timeout_ns == 0)
        return self->kind->ready(self);
    for (int i = 0; self->wait.spins && i < HELD_LOOKS; i++) {
        if (self->kind->ready(self))
            return 1;
        shmq_relax();
    }
    int64_t now = shmq_now_ns();
    int64_t deadline = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    shmq_end_hold(self);
    int rc = wait_in_slices(self, deadline);
    shmq_end_unhold(self);
    return rc;
}

bool shmq_end_arm(shmq_end *self)
{
    if (self->wait.kind != SHMQ_WAIT_EVENTFD)
        return false;
    shmq_cell *cell = self->cell;
    if (atomic_load_explicit(&cell->parked, memory_order_relaxed) != SHMQ_PARKED_EVENTFD) {
        eventfd_t count;
        (void)!eventfd_read(self->own_efd, &count); /* non-blocking: the last signal, if any, is spent */
        atomic_fetch_add_explicit(&cell->parks, 1, memory_order_relaxed);
        shmq_cell_announce(cell, SHMQ_PARKED_EVENTFD);
    }
    if (!self->kind->ready(self))
        return false;
    shmq_cell_clear(cell);
    return true;
}

PyObject *shmq_end_fileno(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!self->shared || self->generation != shmq_fork_generation)
        return shmq_end_refuse(self);
    if (self->wait.kind != SHMQ_WAIT_EVENTFD)
        return PyErr_Format(PyExc_ValueError, "only an end with wait=\"eventfd\" has a descriptor");
    return PyLong_FromLong(self->own_efd);
}

/* ---- leases: memoryviews of slots ---- */

/* The exporter behind the memoryview: keeps the end alive and counts who looks at the slots. */
typedef struct {
    PyObject_HEAD
    shmq_end *end;
    void *at;
    Py_ssize_t bytes;
    Py_ssize_t exports;
    bool readonly;
} shmq_lease;

static int lease_getbuffer(shmq_lease *self, Py_buffer *view, int flags)
{
    if (PyBuffer_FillInfo(view, (PyObject *)self, self->at, self->bytes, self->readonly, flags) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void lease_releasebuffer(shmq_lease *self, Py_buffer *Py_UNUSED(view))
{
    self->exports--;
}

static int lease_traverse(shmq_lease *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->end);
    return 0;
}

static void lease_dealloc(shmq_lease *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->end); /* no tp_clear: a cycle is broken at the end's view */
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, "The slots behind a reserved or peeked memoryview."},
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_traverse, lease_traverse},
    {Py_bf_getbuffer, lease_getbuffer},
    {Py_bf_releasebuffer, lease_releasebuffer},
    {0, NULL},
};

PyType_Spec shmq_lease_spec = {
    .name = "shmq._native.Lease",
    .basicsize = sizeof(shmq_lease),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lease_slots,
};

PyObject *shmq_lease_new(shmq_end *self)
{
    PyTypeObject *type = self->state->lease;
    shmq_lease *lease = (shmq_lease *)type->tp_alloc(type, 0);
    if (!lease)
        return NULL;
    lease->end = (shmq_end *)Py_NewRef(self);
    lease->readonly = !self->kind->is_producer;
    return (PyObject *)lease;
}

PyObject *shmq_lease_view(PyObject *lease, void *at, uint64_t bytes)
{
    ((shmq_lease *)lease)->at = at;
    ((shmq_lease *)lease)->bytes = (Py_ssize_t)bytes;
    return PyMemoryView_FromObject(lease);
}

void shmq_end_lent(shmq_end *self, PyObject *lease, PyObject *view, uint64_t units)
{
    self->lease = Py_NewRef(lease);
    self->view = Py_NewRef(view);
    self->leased = units;
}

PyObject *shmq_end_lend(shmq_end *self, void *at, uint64_t bytes, uint64_t units)
{
    shmq_end_hold(self);
    PyObject *lease = shmq_lease_new(self), *view = NULL;
    if (lease)
        view = shmq_lease_view(lease, at, bytes);
    if (view)
        shmq_end_lent(self, lease, view, units);
    Py_XDECREF(lease);
    shmq_end_unhold(self);
    return view;
}

/* Release one view, or each of a tuple. False, with an exception set, while an array stands on one. */
static bool release_views(const shmq_state *state, PyObject *views)
{
    if (PyTuple_Check(views)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(views); i++)
            if (!release_views(state, PyTuple_GET_ITEM(views, i)))
                return false;
        return true;
    }
    PyObject *done = PyObject_CallMethodNoArgs(views, state->release);
    Py_XDECREF(done);
    return done != NULL;
}

bool shmq_end_take_back(shmq_end *self)
{
    if (!release_views(self->state, self->view) || ((shmq_lease *)self->lease)->exports > 0) {
        PyErr_Format(PyExc_BufferError, "a slice or an array over the %s view is alive: drop it first", self->kind->lent);
        return false;
    }
    Py_CLEAR(self->view);
    Py_CLEAR(self->lease);
    self->leased = 0;
    update_pass(self);
    return true;
}

int64_t shmq_end_count(shmq_end *self, PyObject *arg, const char *verb)
{
    Py_ssize_t n = PyNumber_AsSsize_t(arg, PyExc_OverflowError);
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (!self->shared || self->busy || self->generation != shmq_fork_generation) {
        shmq_end_refuse(self);
        return -1;
    }
    if (n < 0 || (uint64_t)n > self->leased) {
        PyErr_Format(PyExc_ValueError, "cannot %s %zd %s, %llu are out", verb, n, self->kind->unit,
                     (unsigned long long)self->leased);
        return -1;
    }
    return n;
}

/* ---- the rest ---- */

PyObject *shmq_end_get_closed(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->shared == NULL);
}

PyObject *shmq_end_stats(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    return self->shared ? self->kind->stats(self) : shmq_end_refuse(self);
}

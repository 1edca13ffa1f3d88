/* end.c - see end.h: roles, waiting, the eventfd, leases, and what both ends tell about the ring. */
#include "shmq/native/end.h"

#include <sys/eventfd.h>

/* How often a blocking call looks before it gives the GIL up: about a microsecond, less than a handover costs. */
#define HELD_LOOKS 32

static shmq_cell *own_cell(const shmq_end *self)
{
    return self->is_producer ? &self->ring->producer_cell : &self->ring->consumer_cell;
}

static _Atomic uint64_t *role(const shmq_end *self, bool producer)
{
    return producer ? &self->ring->producer : &self->ring->consumer;
}

static const char *role_name(bool producer)
{
    return producer ? "producer" : "consumer";
}

/* From the handle: what stands in the shared header may have changed since it was checked. */
static Py_ssize_t slot_size(const shmq_end *self)
{
    return self->is_producer ? self->producer.slot_size : self->consumer.slot_size;
}

/* Calls may go on unless the end is closed, busy, leased or another process's. */
static void update_pass(shmq_end *self)
{
    self->pass = self->ring && !self->busy && !self->view ? self->generation : 0;
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
    if (!self->ring)
        PyErr_Format(PyExc_ValueError, "the %s is closed", role_name(self->is_producer));
    else if (self->generation != shmq_fork_generation)
        PyErr_Format(PyExc_RuntimeError, "this %s belongs to the parent process: take the role in the process that "
                     "uses it", role_name(self->is_producer));
    else if (self->busy)
        PyErr_Format(PyExc_RuntimeError, "another call of this %s is in progress", role_name(self->is_producer));
    else
        PyErr_Format(PyExc_BufferError, "a %s view is out: call %s first", self->is_producer ? "reserved" : "peeked",
                     self->is_producer ? "commit" : "release");
    return NULL;
}

PyObject *shmq_end_corrupt(shmq_end *self)
{
    PyErr_Format(self->state->corrupt, "the ring's %s cursor holds an impossible value, nothing was transferred",
                 role_name(!self->is_producer));
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
    _Atomic uint64_t *word = role(self, self->is_producer);
    if (shmq_role_take(word) == SHMQ_OK)
        return 0;
    uint64_t holder = atomic_load_explicit(word, memory_order_relaxed);
    if (holder == shmq_self_token())
        PyErr_Format(self->state->role_taken, "this process has a %s for this ring already: close it first",
                     role_name(self->is_producer));
    else
        PyErr_Format(self->state->role_taken, "process %u is the %s of this ring and alive",
                     (unsigned)(holder >> 32), role_name(self->is_producer));
    return -1;
}

static int bind_ring(shmq_end *self, Py_ssize_t at)
{
    if (at < 0 || at > self->memory.len || !shmq_ring_valid((char *)self->memory.buf + at, (uint64_t)(self->memory.len - at))) {
        PyErr_SetString(self->state->corrupt, "no valid ring header at this place");
        return -1;
    }
    void *place = (char *)self->memory.buf + at;
    uint64_t space = (uint64_t)(self->memory.len - at);
    self->ring = place;
    if (take_role(self) < 0) {
        self->ring = NULL;
        return -1;
    }
    int rc = self->is_producer ? shmq_producer_bind(&self->producer, place, space)
                               : shmq_consumer_bind(&self->consumer, place, space);
    if (rc != SHMQ_OK) {
        PyErr_SetString(self->state->corrupt, "the ring's cursors hold impossible values");
        return -1;
    }
    if (self->is_producer)
        self->producer.efd = self->peer_efd;
    else
        self->consumer.efd = self->peer_efd;
    shmq_cell_clear(own_cell(self)); /* a dead predecessor may have left it parked */
    return 0;
}

PyObject *shmq_end_new(PyTypeObject *type, PyObject *args, PyObject *kwargs, bool is_producer)
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
    self->is_producer = is_producer;
    self->generation = shmq_fork_generation;
    self->wait = (shmq_wait_policy){(shmq_wait_kind)wait, spins, yields};
    self->own_efd = duplicate(own_efd);
    self->peer_efd = duplicate(peer_efd);
    if ((own_efd >= 0 && self->own_efd < 0) || (peer_efd >= 0 && self->peer_efd < 0)) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE) < 0 || bind_ring(self, at) < 0) {
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
    if (self->ring && self->generation == shmq_fork_generation) {
        shmq_cell_clear(own_cell(self));
        shmq_role_drop(role(self, self->is_producer));
    }
    self->ring = NULL;
    self->pass = 0;
    drop_fd(&self->own_efd);
    drop_fd(&self->peer_efd);
    PyBuffer_Release(&self->memory); /* does nothing when there is none */
}

PyObject *shmq_end_close(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (self->ring && self->busy)
        return shmq_end_refuse(self);
    if (self->view && !shmq_end_take_back(self))
        return NULL;
    give_up(self);
    Py_RETURN_NONE;
}

PyObject *shmq_end_enter(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!self->ring)
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

/* Without the counters: this runs in a loop. An impossible cursor counts as ready, the next step reports it. */
static bool end_ready(void *arg)
{
    const shmq_end *self = arg;
    if (self->is_producer) {
        uint64_t head = atomic_load_explicit(&self->ring->head, memory_order_acquire); /* R1 */
        return self->producer.tail - head != self->producer.mask + 1;
    }
    return atomic_load_explicit(&self->ring->tail, memory_order_acquire) != self->consumer.read; /* R2 */
}

/* The other role's holder is dead: 1, with PeerDied set. It may have published just before: then 0. */
static int peer_died(shmq_end *self)
{
    uint64_t token = atomic_load_explicit(role(self, !self->is_producer), memory_order_acquire);
    if (!token || shmq_token_alive(token) || end_ready(self))
        return 0;
    PyErr_Format(self->state->peer_died, "the ring's %s, process %u, died", role_name(!self->is_producer),
                 (unsigned)(token >> 32));
    return 1;
}

static int wait_in_slices(shmq_end *self, int64_t deadline)
{
    for (;;) {
        int rc;
        Py_BEGIN_ALLOW_THREADS
        rc = shmq_cell_wait(own_cell(self), self->wait, deadline, SHMQ_SLICE_NS, end_ready, self);
        Py_END_ALLOW_THREADS
        if (rc == SHMQ_OK)
            return 1;
        if (PyErr_CheckSignals() < 0 || peer_died(self))
            return -1;
        if (rc == SHMQ_TIMEOUT)
            return end_ready(self);
    }
}

int shmq_end_wait(shmq_end *self, int64_t timeout_ns)
{
    if (timeout_ns == 0)
        return end_ready(self);
    for (int i = 0; self->wait.spins && i < HELD_LOOKS; i++) {
        if (end_ready(self))
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
    shmq_cell *cell = own_cell(self);
    if (atomic_load_explicit(&cell->parked, memory_order_relaxed) != SHMQ_PARKED_EVENTFD) {
        eventfd_t count;
        (void)!eventfd_read(self->own_efd, &count); /* non-blocking: the last signal, if any, is spent */
        atomic_fetch_add_explicit(&cell->parks, 1, memory_order_relaxed);
        shmq_cell_announce(cell, SHMQ_PARKED_EVENTFD);
    }
    if (!end_ready(self))
        return false;
    shmq_cell_clear(cell);
    return true;
}

PyObject *shmq_end_fileno(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    if (!self->ring || self->generation != shmq_fork_generation)
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

PyObject *shmq_end_lend(shmq_end *self, void *at, uint64_t slots)
{
    PyTypeObject *type = self->state->lease;
    shmq_end_hold(self);
    shmq_lease *lease = (shmq_lease *)type->tp_alloc(type, 0);
    if (!lease) {
        shmq_end_unhold(self);
        return NULL;
    }
    lease->end = (shmq_end *)Py_NewRef(self);
    lease->at = at;
    lease->bytes = (Py_ssize_t)slots * slot_size(self);
    lease->readonly = !self->is_producer;
    PyObject *view = PyMemoryView_FromObject((PyObject *)lease);
    if (view) {
        self->lease = Py_NewRef(lease);
        self->view = Py_NewRef(view);
        self->leased = slots;
    }
    Py_DECREF(lease);
    shmq_end_unhold(self);
    return view;
}

bool shmq_end_take_back(shmq_end *self)
{
    PyObject *done = PyObject_CallMethod(self->view, "release", NULL); /* fails while an array stands on it */
    bool derived = !done || ((shmq_lease *)self->lease)->exports > 0;
    Py_XDECREF(done);
    if (derived) {
        PyErr_Format(PyExc_BufferError, "a slice or an array over the %s view is alive: drop it first",
                     self->is_producer ? "reserved" : "peeked");
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
    if (!self->ring || self->busy || self->generation != shmq_fork_generation) {
        shmq_end_refuse(self);
        return -1;
    }
    if (n < 0 || (uint64_t)n > self->leased) {
        PyErr_Format(PyExc_ValueError, "cannot %s %zd slots, %llu are out", verb, n, (unsigned long long)self->leased);
        return -1;
    }
    return n;
}

/* ---- the rest ---- */

bool shmq_end_slots_buffer(shmq_end *self, PyObject *object, int flags, Py_buffer *buffer, uint64_t *slots)
{
    if (PyObject_GetBuffer(object, buffer, flags) < 0)
        return false;
    Py_ssize_t slot = slot_size(self);
    if (buffer->len % slot) {
        PyErr_Format(PyExc_ValueError, "the buffer has %zd bytes, which is not a multiple of the slot size %zd",
                     buffer->len, slot);
        PyBuffer_Release(buffer);
        return false;
    }
    *slots = (uint64_t)(buffer->len / slot);
    return true;
}

PyObject *shmq_end_get_capacity(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLongLong((self->is_producer ? self->producer.mask : self->consumer.mask) + 1);
}

PyObject *shmq_end_get_slot_size(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSsize_t(slot_size(self));
}

PyObject *shmq_end_get_closed(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(self->ring == NULL);
}

static unsigned long long get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

static PyObject *ring_info(const shmq_ring *r)
{
    unsigned long long head = get(&r->head), tail = get(&r->tail); /* in this order: tail - head >= 0 */
    return Py_BuildValue(
        "{sKsIsKsKsKsKsKsKsKsKsKsKsKsKsI}", "capacity", (unsigned long long)r->capacity, "slot_size", r->slot_size,
        "pushes", tail, "pops", head, "used", tail - head, "full_hits", get(&r->full_hits), "empty_hits",
        get(&r->empty_hits), "high_water", get(&r->high_water), "producer_parks", get(&r->producer_cell.parks),
        "producer_wakes", get(&r->producer_cell.wakes), "consumer_parks", get(&r->consumer_cell.parks),
        "consumer_wakes", get(&r->consumer_cell.wakes), "producer_token", get(&r->producer), "consumer_token",
        get(&r->consumer), "flags", r->flags);
}

PyObject *shmq_end_stats(shmq_end *self, PyObject *Py_UNUSED(unused))
{
    return self->ring ? ring_info(self->ring) : shmq_end_refuse(self);
}

PyObject *shmq_py_ring_bytes(PyObject *Py_UNUSED(module), PyObject *args)
{
    long long capacity, slot_size;
    if (!PyArg_ParseTuple(args, "LL:ring_bytes", &capacity, &slot_size))
        return NULL;
    bool positive = capacity > 0 && slot_size > 0;
    return PyLong_FromUnsignedLongLong(positive ? shmq_ring_bytes((uint64_t)capacity, (uint64_t)slot_size) : 0);
}

PyObject *shmq_py_ring_init(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    unsigned long long capacity, slot_size;
    unsigned flags;
    if (!PyArg_ParseTuple(args, "w*nKKI:ring_init", &memory, &at, &capacity, &slot_size, &flags))
        return NULL;
    uint64_t need = shmq_ring_bytes(capacity, slot_size);
    int rc = SHMQ_INVALID;
    if (at >= 0 && need && (uint64_t)memory.len >= need + (uint64_t)at) {
        shmq_ring *ring = (shmq_ring *)((char *)memory.buf + at);
        rc = shmq_ring_init(ring, capacity, slot_size);
        if (rc == SHMQ_OK)
            ring->flags = flags;
    }
    PyBuffer_Release(&memory);
    if (rc != SHMQ_OK)
        return PyErr_Format(PyExc_ValueError, "a ring of this geometry does not fit here");
    Py_RETURN_NONE;
}

PyObject *shmq_py_ring_info(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer memory;
    Py_ssize_t at;
    if (!PyArg_ParseTuple(args, "w*n:ring_info", &memory, &at))
        return NULL;
    PyObject *result;
    if (at >= 0 && at <= memory.len && shmq_ring_valid((char *)memory.buf + at, (uint64_t)(memory.len - at)))
        result = ring_info((shmq_ring *)((char *)memory.buf + at));
    else
        result = Py_NewRef(Py_None);
    PyBuffer_Release(&memory);
    return result;
}

/* ring.c - what both ends of a ring share: finding it, its cursors, what it tells about itself. */
#include "shmq/native/end.h"

bool shmq_ring_end_find(shmq_end *self, void *at, uint64_t space)
{
    shmq_ring *ring = at;
    if (!shmq_ring_valid(ring, space))
        return false;
    bool producer = self->kind->is_producer;
    self->ring = ring;
    self->role = producer ? &ring->producer : &ring->consumer;
    self->peer_role = producer ? &ring->consumer : &ring->producer;
    self->cell = producer ? &ring->producer_cell : &ring->consumer_cell;
    return true;
}

int shmq_ring_end_bind(shmq_end *self, uint64_t space)
{
    int rc = self->kind->is_producer ? shmq_producer_bind(&self->producer, self->ring, space)
                                     : shmq_consumer_bind(&self->consumer, self->ring, space);
    if (self->kind->is_producer)
        self->producer.efd = self->peer_efd;
    else
        self->consumer.efd = self->peer_efd;
    return rc;
}

bool shmq_ring_end_ready(void *arg)
{
    const shmq_end *self = arg;
    if (self->kind->is_producer) {
        uint64_t capacity = self->producer.mask + 1;
        uint64_t used = self->producer.tail - atomic_load_explicit(&self->ring->head, memory_order_acquire); /* R1 */
        return used > capacity || capacity - used >= self->need;
    }
    return atomic_load_explicit(&self->ring->tail, memory_order_acquire) != self->consumer.read; /* R2 */
}

/* From the handle: what stands in the shared header may have changed since it was checked. */
static Py_ssize_t slot_size(const shmq_end *self)
{
    return self->kind->is_producer ? self->producer.slot_size : self->consumer.slot_size;
}

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
    return PyLong_FromUnsignedLongLong((self->kind->is_producer ? self->producer.mask : self->consumer.mask) + 1);
}

PyObject *shmq_end_get_slot_size(shmq_end *self, void *Py_UNUSED(unused))
{
    return PyLong_FromSsize_t(slot_size(self));
}


static unsigned long long get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit((_Atomic uint64_t *)counter, memory_order_relaxed);
}

PyObject *shmq_ring_info(const shmq_ring *r)
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
        result = shmq_ring_info((shmq_ring *)((char *)memory.buf + at));
    else
        result = Py_NewRef(Py_None);
    PyBuffer_Release(&memory);
    return result;
}

PyObject *shmq_ring_end_stats(const shmq_end *self)
{
    return shmq_ring_info(self->ring);
}
